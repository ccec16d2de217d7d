"""How many MiniStreet pictures one core draws per second (CPU time, so that neighbours on the machine do not count).

    python -m benchmarks.ministreet_speed [--scenes 40]
"""

import argparse
import time

from course_lib.data.ministreet import render


def images_per_second(look: str, size: tuple[int, int], scenes: int) -> float:
    """Scenes 0, 1, ... of one look, anti-aliased, after a warm-up that fills the noise tables."""
    render(0, look, size)
    began = time.process_time()
    for seed in range(scenes):
        render(seed, look, size)
    return scenes / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=40)
    scenes = parser.parse_args().scenes
    print("| size | game images/s | camera images/s |\n|---|---|---|")
    for size in ((128, 256), (256, 512)):
        speeds = [images_per_second(look, size, scenes) for look in ("game", "camera")]
        print(f"| {size[0]}x{size[1]} | " + " | ".join(f"{speed:.1f}" for speed in speeds) + " |")


if __name__ == "__main__":
    main()
