"""A network from outside as one of this library: whatever it returns becomes a `Prediction`.

Letters: N images, C classes, D feature channels; H, W the image, h, w the classifier's grid.

What a user's network may return for images (N, 3, H, W):

    Prediction(features, logits, aux_logits)     taken as it is, its pyramid and disparity, too
    logits (N, C, h, w), or brought to (H, W)    features are the input of the layer that made them, its classifier
    {"out": logits, "aux": logits}               likewise, as torchvision's segmentation models; or an object with `.logits`

The classifier is found once, on a small image: the convolution with C outputs whose output, brought to the
size of what was returned, equals it. Attributes that a network may have: `normalisation` (default "imagenet"), `divisor` (sizes
have to be a multiple of it: images are padded), `head_parameters()` (what learns at the head's rate; default: the classifier).
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.networks.prediction import Prediction, Segmenter, check_image, eval_mode

PROBE = (64, 96)  # height and width of the image on which a network is tried
LAYERS = (nn.Conv2d, nn.ConvTranspose2d)  # that a classifier may be


def adapted(builder: Callable[..., nn.Module], name: str, num_classes: int, **options: Any) -> Segmenter:
    """`builder(num_classes, **options)` as a segmentation network of this library.

    Raises ValueError, naming the network and what it raised or returned, for one that cannot be built, that does not segment
    into `num_classes` classes, or whose features cannot be found.
    """
    try:
        network = builder(num_classes, **options)
    except Exception as error:  # whatever a user's code raises
        if isinstance(error, TypeError) and "unexpected keyword" in str(error):
            raise  # an option: `build` names it
        given = ", ".join([str(num_classes), *(f"{key}={value!r}" for key, value in options.items())])
        raise ValueError(f"The network {name} raised {type(error).__name__} in {name}({given}): {error}.") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"The network {name} is a {type(network).__name__}; wanted a torch.nn.Module that segments images.")
    return Adapter(network, num_classes, name)


class Adapter(Segmenter):
    """image (N, 3, H, W) -> Prediction of the network inside; its weights are `network.*`."""

    def __init__(self, network: nn.Module, num_classes: int, name: str) -> None:
        super().__init__()
        self.network, self.num_classes, self.name = network, num_classes, name
        self.normalisation: str = getattr(network, "normalisation", "imagenet")
        self.divisor: int = getattr(network, "divisor", 1)
        # names of layers, "" for a network that is one; None where the network returns a Prediction
        self.classifier: str | None = None
        self.aux_classifier: str | None = None
        self.feature_dim = self._look()

    def forward(self, image: Tensor) -> Prediction:
        check_image(image, self.name, self.normalisation)
        padded = pad(image, self.divisor, self.name)
        with _Watch(self.network, (self.classifier, self.aux_classifier)) as seen:
            returned = self.network(padded)
        found = returned if isinstance(returned, Prediction) else self._prediction(seen)
        if padded is image:
            return found
        maps = (None if part is None else unpad(part, image, padded) for part in found[:3])
        pyramid = None if found.pyramid is None else tuple(unpad(x, image, padded) for x in found.pyramid)
        near = (None if D is None else unpad(D[:, None], image, padded)[:, 0] for D in (found.disparity, found.aux_disparity))
        return Prediction(*maps, pyramid, None, found.align_corners, *near)

    def _prediction(self, seen: dict[str, tuple[Tensor, Tensor]]) -> Prediction:
        features, logits = seen[self.classifier]
        if features.shape[2:] != logits.shape[2:]:  # of a transposed convolution
            features = F.interpolate(features, size=logits.shape[2:], mode="bilinear", align_corners=False)
        aux = None if self.aux_classifier is None else seen[self.aux_classifier][1]
        return Prediction(features, logits, aux)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The network's own choice, else the classifiers."""
        if hasattr(self.network, "head_parameters"):
            yield from self.network.head_parameters()
            return
        for name in (name for name in (self.classifier, self.aux_classifier) if name is not None):
            yield from self.network.get_submodule(name).parameters()

    # ---- how its output is to be read

    @torch.no_grad()
    def _look(self) -> int:
        """Try the network on one image: sets the names of the classifiers, returns D."""
        count = 3 * PROBE[0] * PROBE[1]
        image = torch.linspace(-9.0, 9.0, count).sin().reshape(1, 3, *PROBE)  # the same on every call, no random number
        image = pad(image.to(next(self.network.parameters(), image).device), self.divisor, self.name, tell=False)
        convolutions = ((name, layer) for name, layer in self.network.named_modules() if isinstance(layer, LAYERS))
        layers = [name for name, layer in convolutions if layer.out_channels == self.num_classes]
        try:
            with eval_mode(self.network), _Watch(self.network, layers) as seen:  # no statistics move, no dropout draws
                returned = self.network(image)
        except Exception as error:
            raise ValueError(
                f"The network {self.name} raised {type(error).__name__} on images {tuple(image.shape)}: {error}. It has to "
                "take images (N, 3, H, W) of any size; if sizes have to be a multiple of n, give it an attribute `divisor = n`."
            ) from error
        if isinstance(returned, Prediction):
            return self._checked(returned)
        logits, aux = self._parts(returned)
        self.classifier = self._maker(logits, seen, "logits")
        if aux is not None:
            rest = {name: parts for name, parts in seen.items() if name != self.classifier}
            self.aux_classifier = self._maker(aux, rest, "auxiliary logits")
        return self._prediction(seen).features.shape[1]

    def _checked(self, found: Prediction) -> int:
        C, h, w = found.logits.shape[1:]
        if C != self.num_classes or found.features.ndim != 4 or found.features.shape[2:] != (h, w):
            raise ValueError(
                f"The network {self.name} returned features {tuple(found.features.shape)} and logits "
                f"{tuple(found.logits.shape)}; wanted (N, D, h, w) and (N, {self.num_classes}, h, w) on one grid."
            )
        for part in (found.disparity, found.aux_disparity):
            if part is not None and (part.ndim != 3 or len(part) != len(found.logits)):
                raise ValueError(
                    f"The network {self.name} returned a disparity {tuple(part.shape)}; wanted (N, h, w), in 0..1: one number "
                    "for each place of its grid."
                )
        self.pyramid_channels = tuple(x.shape[1] for x in found.pyramid or ())
        self.gives_disparity = found.disparity is not None
        return found.features.shape[1]

    def _parts(self, returned: Any) -> tuple[Tensor, Tensor | None]:
        """(logits, auxiliary logits) of what the network returned."""
        if isinstance(returned, dict):
            logits, aux = returned.get("out", returned.get("logits")), returned.get("aux")
            what = f"a dictionary with {', '.join(map(str, returned)) or 'nothing'}"
        else:
            logits, aux = getattr(returned, "logits", returned), None
            what = f"a {type(returned).__name__}"
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"The network {self.name} returned {what}; wanted logits (N, {self.num_classes}, h, w), a dictionary with "
                "'out', or course_lib.networks.Prediction(features, logits)."
            )
        for part in (logits, *(() if aux is None else (aux,))):
            if part.ndim != 4 or part.shape[1] != self.num_classes:
                raise ValueError(
                    f"The network {self.name} returned {tuple(part.shape)}; wanted logits (N, {self.num_classes}, h, w): one "
                    f"channel for each of {self.num_classes} classes. It is built with num_classes={self.num_classes}."
                )
        return logits, aux

    def _maker(self, logits: Tensor, seen: dict[str, tuple[Tensor, Tensor]], what: str) -> str:
        """The layer that made the logits, by its output on the image."""
        outputs = {name: output for name, (_, output) in seen.items()}
        if logits.is_meta:  # without numbers: the last that ran
            return list(outputs)[-1] if outputs else self._unclear(what, seen)
        for name, output in reversed(outputs.items()):
            if any(_close(resized, logits) for resized in _resized(output, logits.shape[2:])):
                return name
        if _close(logits.sum(1), torch.ones_like(logits.sum(1))):
            raise ValueError(f"The network {self.name} returned probabilities, which sum to 1; wanted logits, before softmax.")
        return self._unclear(what, seen)

    def _unclear(self, what: str, seen: dict) -> str:
        raise ValueError(
            f"The network {self.name} returned {what} that are the output of none of its convolutions with {self.num_classes} "
            f"outputs ({', '.join(seen) or 'there are none'}), so that its features are unknown. Return "
            "course_lib.networks.Prediction(features, logits): features (N, D, h, w) before the classifier."
        )


class _Watch:
    """Keeps (input, output) of the named layers of one forward pass. A hook that stayed would point to this network from its
    copies."""

    def __init__(self, network: nn.Module, names: Any) -> None:
        self.layers = {name: network.get_submodule(name) for name in names if name is not None}
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> dict[str, tuple[Tensor, Tensor]]:
        self.handles = [layer.register_forward_hook(self._keeper(name)) for name, layer in self.layers.items()]
        return self.seen

    def __exit__(self, *_: Any) -> None:
        for handle in self.handles:
            handle.remove()

    def _keeper(self, name: str) -> Callable:
        def keep(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
            self.seen.pop(name, None)  # in the order in which they ran last
            self.seen[name] = (inputs[0], output)

        return keep


def _resized(x: Tensor, size: torch.Size) -> Iterator[Tensor]:
    if x.shape[2:] == size:
        yield x
        return
    for mode, corners in (("bilinear", False), ("bilinear", True), ("nearest", None), ("bicubic", False)):
        yield F.interpolate(x, size=size, mode=mode, align_corners=corners)


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to the rounding of one interpolation: a few units in the last place of the largest value."""
    return a.shape == b.shape and bool((a - b).abs().max() <= 16 * torch.finfo(a.dtype).eps * b.abs().max())


# ---- sizes that do not divide


def pad(image: Tensor, divisor: int, name: str, tell: bool = True) -> Tensor:
    """The images with zeros (the mean colour) at the right and at the bottom, so that `divisor` divides both sides.

    A note is printed once for each network.

    >>> pad(torch.zeros(1, 3, 20, 28), 14, "vit", tell=False).shape
    torch.Size([1, 3, 28, 28])
    """
    H, W = image.shape[2:]
    down, right = -H % divisor, -W % divisor
    if divisor == 1 or (not torch.compiler.is_exporting() and not down and not right):  # an exported network takes any size
        return image
    if tell and not torch.compiler.is_exporting():
        warnings.warn(f"{name} wants sizes that {divisor} divides: images of other sizes are padded.", stacklevel=3)
    return F.pad(image, (0, right, 0, down))


def unpad(x: Tensor, image: Tensor, padded: Tensor) -> Tensor:
    """A map (N, D, h, w) of padded images on a grid that covers the images alone, with as many cells as fit.

    Cell centres of the new grid are read from the old one, bilinearly:
    y = (i + 1/2) H / h' is the image's coordinate, 2 y / H_padded - 1 that of grid_sample.
    """
    y, x_ = (_centres(old, new, cells, x.device) for old, new, cells in zip(image.shape[2:], padded.shape[2:], x.shape[2:]))
    rows, columns = y.shape[0], x_.shape[0]  # len() would fix them in an export
    grid = torch.stack((x_.expand(rows, -1), y[:, None].expand(-1, columns)), -1).to(x.dtype)
    return F.grid_sample(x, grid.expand(x.shape[0], -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False)


def _centres(old: int, new: int, cells: int, device: torch.device) -> Tensor:
    """Where the centres of round(cells old / new) cells, at least 1, that cover `old` of `new` pixels lie in -1..1 of `new`."""
    count = torch.sym_max(1, (2 * cells * old + new) // (2 * new))  # sizes may be symbols: an export keeps them free
    place = torch.arange(count, device=device, dtype=torch.float32) + 0.5
    return place * (2 * old / (count * new)) - 1
