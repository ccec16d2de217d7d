"""What comes after a run: `uda export`, `uda score`, `uda difference`."""

from pathlib import Path
from typing import Annotated

import typer

from course_lib.cli_data import Quiet, Replace
from course_lib.terminal import print, shown

Checkpoint = Annotated[
    Path, typer.Argument(help="A best.pt or last.pt of `uda train`, or a file that a paper's authors released.")
]

Network = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="network=NAME", help="Which network CHECKPOINT holds, where it is code of your own, or does "
                 "not say: network, network_options, space, test_size."),
]  # fmt: skip


def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="The ONNX file, for example net.onnx.")],
    replace: Replace = False,
    settings: Network = None,
) -> None:
    """Write CHECKPOINT's network as ONNX: RGB from 0 to 1 in, logits of the same size out, for any batch and picture size.

    Needs the extra `export`. Before it is written, the file is run by onnxruntime and compared with the network.
    """
    from course_lib.evaluation.onnx_export import KIND, PACKAGES, export_onnx
    from course_lib.experiments.state import load_network
    from course_lib.extras import require
    from course_lib.files import refuse_foreign

    require("export", PACKAGES, "`uda export`")
    refuse_foreign(out, KIND, replace, reading=[checkpoint])
    segmenter, recipe = load_network(checkpoint, settings=tuple(settings or ()))
    done = export_onnx(segmenter, out, recipe.space, test_size=recipe.test_size, replace=replace)
    for (N, H, W), difference in done.differences.items():
        print(f"{N} x {W}x{H}: logits differ from the network's by at most {difference:.1e}")
    print("Written:", done.path)


def score(
    predictions: Annotated[Path, typer.Argument(help="Folder of label maps: PNG files of train ids, named as the pictures.")],
    data: Annotated[str, typer.Option(help="The labelled pictures, layout:path or layout:path@split (default: val).")],
    space: Annotated[str | None, typer.Option(help="Classes of the ids; default: cityscapes19 (CamVid: camvid11).")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the scores per class to this CSV file.")] = None,
    confusion: Annotated[Path | None, typer.Option(help="Also write the confusion matrix (pixels) to this CSV file.")] = None,
    replace: Replace = False,
    workers: Annotated[int | None, typer.Option(help="Threads that read; default: one a core.")] = None,
    quiet: Quiet = False,
) -> None:
    """Score label maps that another program wrote, as `uda evaluate` scores a network."""
    from course_lib.data import open_dataset
    from course_lib.data.layouts import default_space, parse
    from course_lib.data.names import files_below
    from course_lib.evaluation.label_maps import KIND, confusion_csv, score_label_maps, scores_csv
    from course_lib.experiments.parts import split_of
    from course_lib.files import refuse_foreign, write_result

    if out is not None and out == confusion:
        raise ValueError(f"--out and --confusion both name {out}; give two files.")
    name, split = split_of(data, "val")
    found = default_space(*parse(name))
    space = space or (found.name if found is not None else "cityscapes19")
    pictures = open_dataset(name, split, space, bits=16)  # labels alone are read
    for path in (out, confusion):
        if path is not None:
            inputs = [file for pair in pictures.pairs for file in (pair.image, pair.label)] if replace else []
            inputs += [predictions / file for file in files_below(predictions)] if replace else []
            refuse_foreign(path, KIND, replace, reading=inputs)
    scores, counts = score_label_maps(predictions, pictures, workers=workers, progress=not quiet)
    print(scores.table())
    for path, text in ((out, scores_csv(scores, counts)), (confusion, confusion_csv(scores, counts))):
        if path is not None:
            print("Written:", write_result(path, text, KIND, replace))


def difference(
    results: Annotated[Path, typer.Argument(help="The folder OUT of `uda compare` or `uda ablate`, or its results.json.")],
    row_a: Annotated[str, typer.Argument(help="A row of the results.")],
    row_b: Annotated[str, typer.Argument(help="The row that it is compared with, for example its control.")],
) -> None:
    """Print ROW_A less ROW_B in points of IoU, by class and for the mean: each seed, their mean, Student's 95 % interval."""
    from course_lib.experiments.paired import differences, read_results, table

    content = read_results(results)
    found = differences(content, row_a, row_b)
    print(f"{shown(row_a)} less {shown(row_b)}, points of IoU")
    print(table(found, list(content["rows"][row_a]["seeds"])))
