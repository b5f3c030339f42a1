"""rlkit eval."""

from __future__ import annotations

from pathlib import Path

from rlkit.cli.flags import one_positional, parse, whole_number

USAGE = """usage: rlkit eval RUN [--episodes N] [--video] [--checkpoint STEP] [--runs DIR]

Plays N whole episodes (default 10) with RUN's newest checkpoint, in environments of its own.
--video             also film one episode: an .mp4 with the extra `video`, else a .gif
--checkpoint STEP   another checkpoint than the newest
--runs DIR          where run folders are (default: runs)

example: rlkit eval last --episodes 20 --video"""


def main(words: list[str]) -> int:
    """Evaluate and print; the exit status."""
    options = ("episodes", "checkpoint", "runs")
    parsed = parse(words, options=options, switches=("video",), settings=False, usage=USAGE)
    if parsed.help_wanted():
        print(USAGE)
        return 0
    text = one_positional(parsed, "RUN", USAGE)
    episodes = whole_number(parsed.options, "episodes", 10)
    step = whole_number(parsed.options, "checkpoint", 1) if "checkpoint" in parsed.options else None
    from rlkit.training.evaluation import evaluate_run
    from rlkit.training.run_folder import find_run

    run = find_run(Path(parsed.options.get("runs", "runs")), text)
    result = evaluate_run(run, episodes=episodes, video="video" in parsed.switches, checkpoint=step)
    print(f"mean {result.mean:.2f}, median {result.median:.2f}, {len(result.returns)} episodes")
    print("returns: " + ", ".join(f"{value:g}" for value in result.returns))
    print("protocol: " + ", ".join(f"{key} {value}" for key, value in result.protocol.items()))
    if result.video_path is not None:
        print(f"video: {result.video_path}")
    return 0
