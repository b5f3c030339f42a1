"""Pictures to a file that a browser plays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rlkit.core.typing import Array

FRAMES_PER_SECOND = 30
_GIF_FRAMES = 900  # a longer episode is thinned: a GIF is held in memory and by the browser whole


def write_video(stem: Path, pictures: list[Array]) -> Path:
    """uint8 [H, W, 3] pictures to `stem`.mp4 (H.264, extra `video`), else to an animated `stem`.gif."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    try:
        import imageio_ffmpeg
    except ImportError:
        return _write_gif(stem.with_suffix(".gif"), pictures)
    path = stem.with_suffix(".mp4")
    height, width = pictures[0].shape[:2]
    # yuv420p is what browsers decode; it needs even sides.
    even = (slice(height // 2 * 2), slice(width // 2 * 2))
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (even[1].stop, even[0].stop),
        fps=FRAMES_PER_SECOND,
        codec="libx264",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
    )
    writer.send(None)
    for picture in pictures:
        writer.send(np.ascontiguousarray(picture[even]))
    writer.close()
    return path


def _write_gif(path: Path, pictures: list[Array]) -> Path:
    stride = -(-len(pictures) // _GIF_FRAMES)
    first, *rest = [Image.fromarray(picture) for picture in pictures[::stride]]
    first.save(path, save_all=True, append_images=rest, duration=1000 // FRAMES_PER_SECOND, loop=0)
    return path
