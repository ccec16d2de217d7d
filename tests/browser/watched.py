"""A tab of the browser: what goes wrong in it, what it shows, and whether that can be read."""

from pathlib import Path

READABLE = 4.5  # contrast of text and background, at least: WCAG 2, level AA

# Texts of a part of the page that are drawn, each with its contrast: (lighter + 0.05) / (darker + 0.05) of both luminances.
CONTRASTS = """(part, apart) => {
    const colour = text => {
        const context = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d');
        context.fillStyle = text;
        context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data];
    };
    const linear = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const luminance = rgb => 0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2]);
    const behind = node => {
        for (; node; node = node.parentElement) {
            const found = colour(getComputedStyle(node).backgroundColor);
            if (found[3] > 127) return found;
        }
        return [255, 255, 255, 255];
    };
    const found = [], walker = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
        if (!text || apart && node.closest(apart)) continue;
        if (!node.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
        const [a, b] = [colour(getComputedStyle(node).color), behind(node)].map(luminance).sort((a, b) => b - a);
        found.push([text, (a + 0.05) / (b + 0.05)]);
    }
    return found;
}"""


class Watched:
    """A tab of the browser. `faults` has what went wrong since it was last emptied, apart from what is in `harmless`."""

    def __init__(self, page, pictures: Path, name: str) -> None:
        self.page, self.pictures, self.name = page, pictures, name
        self.faults: list[str] = []
        self.harmless: dict[str, str] = {}  # exact text -> why it is no fault
        self.home = ""  # the address of what is tested; what comes from elsewhere needs the Internet
        self.count = 0
        pictures.mkdir(parents=True, exist_ok=True)
        for old in pictures.glob(f"{name}-*.png"):
            old.unlink()
        page.on("console", lambda said: said.type == "error" and self._fault(f"console: {said.text}"))
        page.on("pageerror", lambda error: self._fault(f"exception: {error}"))
        page.on("requestfailed", lambda asked: "ABORTED" not in asked.failure and self._fault(f"{asked.failure} {asked.url}"))
        page.on("request", lambda asked: self._asked(asked.url))
        page.on("response", lambda got: got.status >= 400 and self._fault(f"{got.status}: {got.url.partition('?')[0]}"))

    def _fault(self, text: str) -> None:
        if text not in self.harmless:
            self.faults.append(text)

    def _asked(self, address: str) -> None:
        if not address.startswith((self.home, "data:", "blob:", "about:")):
            self._fault(f"comes from elsewhere: {address}")

    def picture(self, what: str, part=None) -> None:
        """Write what is on the screen, or a part of the page, to a file."""
        self.count += 1
        (part or self.page).screenshot(path=self.pictures / f"{self.name}-{self.count:02d}-{what}.png")

    def unreadable(self, part, apart: str = "") -> list[str]:
        """Texts of a part of the page with too little contrast to what is behind them; `apart`, a CSS selector, is left out."""
        found = part.evaluate(CONTRASTS, apart)
        return [f"{text[:60]!r}: {contrast:.2f}" for text, contrast in found if contrast < READABLE]
