"""Write a grown model to where it is to go: under a temporary name first, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gnomon.checkpoint import save
from gnomon.errors import BadCheckpoint
from gnomon.grower import Grower
from gnomon.opening import hugging_face
from gnomon.opening.errors import OutputExists
from gnomon.opening.models import WEIGHTS, Opened
from gnomon.recording.tape import owned_tensors

_LEFT = ("config.json", "generation_config.json")  # of the small model: the grown one has its own
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")


def check_target(out: Path, *, overwrite: bool) -> None:
    """Raise OutputExists, or BadCheckpoint if nothing can be written there."""
    if out.exists() and not overwrite:
        raise OutputExists(f"'{out}' exists: give another -o, or --overwrite to replace it")
    if out.exists() and out.is_dir() == _is_file(out):
        kind = "folder" if out.is_dir() else "file"
        raise OutputExists(
            f"'{out}' is a {kind}, and something else is to take its place: remove it"
        )
    if out.is_dir() and not (out / WEIGHTS).is_file() and any(out.iterdir()):
        raise OutputExists(f"'{out}' holds no {WEIGHTS}, so it is none of ours: remove it yourself")
    parent = out.absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BadCheckpoint(f"'{out}' cannot be written: '{parent}' is no folder to write in")


def check_space(grower: Grower, more: int, out: Path) -> None:
    """Raise BadCheckpoint if the device has no room for the model and `more` parameters."""
    tensors = owned_tensors(grower.model).values()
    widest = max((t.element_size() for t in tensors if t.is_floating_point()), default=4)
    needed = sum(t.numel() * t.element_size() for t in tensors) + more * widest
    free = shutil.disk_usage(out.absolute().parent).free
    if needed > free:
        raise BadCheckpoint(
            f"'{out}' cannot be written: it takes {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB "
            f"are free on its device. Give another -o"
        )


def write(opened: Opened, grower: Grower, out: Path, report: str) -> str:
    """Write a `.safetensors` file, or a folder of one with a report. Returns what else to know.

    A folder of a transformers model has its configuration too, if that describes what has grown,
    and `from_pretrained` was seen to give the same function.
    Raises BadCheckpoint if it cannot be written; what was there before is then still there.
    """
    if _is_file(out):
        save(grower, out, about=opened.about)
        return ""
    with _folder(out) as made:
        save(grower, made / WEIGHTS, about=opened.about)
        (made / "growth.txt").write_text(report + "\n")
        if opened.origin.source.kind != "hf":
            return ""
        why = hugging_face.written_as(grower.model, made, grower.calls[0])
        if why:
            return (
                f"from_pretrained cannot open it, since {why}: open it with gnomon, or with gn.load"
            )
        _copy_rest(Path(opened.origin.source.name), made)
        return "from_pretrained opens it too"


def _is_file(out: Path) -> bool:
    return out.suffix == ".safetensors"


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A new folder that takes its place when all is written."""
    try:
        made = Path(
            tempfile.mkdtemp(dir=out.absolute().parent, prefix=f"{out.name}.", suffix=".part")
        )
        try:
            yield made
            made.chmod(0o755)  # not only for us, as temporary folders are
            _take_place(made, out)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as fault:
        raise BadCheckpoint(f"'{out}' cannot be written: {fault}") from fault


def _take_place(made: Path, out: Path) -> None:
    if not out.exists():
        os.replace(made, out)
        return
    aside = Path(tempfile.mkdtemp(dir=made.parent, prefix=f"{out.name}.", suffix=".old"))
    try:
        os.replace(out, aside)  # an empty folder may be replaced
        try:
            os.replace(made, out)
        except BaseException:
            os.replace(aside, out)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _copy_rest(source: Path, made: Path) -> None:
    """The tokenizer and whatever else lies beside the weights of the small model."""
    if not source.is_dir():
        return
    for path in source.iterdir():
        taken = path.name in _LEFT or path.suffix in _WEIGHTS or path.name.endswith(".index.json")
        if path.is_file() and not taken and not (made / path.name).exists():
            shutil.copyfile(path, made / path.name)
