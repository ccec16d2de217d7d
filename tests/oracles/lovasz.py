"""The Lovasz extension of 1 - IoU from its definition, on lists."""


def jaccard_loss(wrong: set, members: set) -> float:
    """1 - |members not wrong| / |members or wrong|: the pixels in `wrong` are those predicted wrongly."""
    union = members | wrong
    return 1 - len(members - wrong) / len(union) if union else 0.0


def extension(errors: list[float], members: set) -> float:
    """sum_k e_(k) (J({(1), ..., (k)}) - J({(1), ..., (k-1)})), the errors sorted from the largest."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    total, wrong = 0.0, set()
    for i in order:
        before = jaccard_loss(wrong, members)
        wrong = wrong | {i}
        total += errors[i] * (jaccard_loss(wrong, members) - before)
    return total


def lovasz_softmax(probabilities: list[list[float]], labels: list[int]) -> float:
    """Mean over the present classes; a list of pixels, each with its C probabilities."""
    known = [(p, y) for p, y in zip(probabilities, labels, strict=True) if y != 255]
    losses = []
    for c in sorted({y for _, y in known}):
        errors = [1 - p[c] if y == c else p[c] for p, y in known]
        losses.append(extension(errors, {i for i, (_, y) in enumerate(known) if y == c}))
    return sum(losses) / len(losses) if losses else 0.0
