"""Models of transformers: from a hub's name or a folder, and back into such a folder."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gnomon.errors import BadCheckpoint
from gnomon.opening.errors import CannotOpen, Offline
from gnomon.opening.inputs import BATCH, Input
from gnomon.opening.libraries import library
from gnomon.opening.source import Source
from gnomon.opening.weights import mapped
from gnomon.recording.hollow import built
from gnomon.recording.tape import Call, owned_tensors, record
from gnomon.recording.thrift import trim

_TOKENS = 8
_SAMPLES = 4000  # of sound: a quarter of a second
_FRAMES = 8
_ALIGNMENT = 64  # bytes


def pretrained_model(source: Source) -> nn.Module:
    """A model with its weights, in the dtype that they are stored in, mapped from their files.

    Raises MissingLibrary, CannotOpen, Offline; BadCheckpoint if the weights are a pickle, are not
    there, or do not fit.
    """
    transformers, config = library("transformers"), configuration(source)
    make = _class(transformers, config)
    try:
        with _silent(transformers):
            model, found = make.from_pretrained(
                source.name, config=config, dtype="auto", use_safetensors=True,
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
    except OSError as fault:
        raise _no_weights(source, fault) from fault
    except Exception as fault:
        said = str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
        raise BadCheckpoint(f"the weights of '{source}' cannot be loaded: {said}") from fault
    odd = {kind: sorted(map(str, names)) for kind, names in found.items() if names}
    for kind in ("missing_keys", "mismatched_keys"):
        if odd.get(kind):
            raise BadCheckpoint(
                f"the weights of '{source}' do not fit {make.__name__}: "
                f"{kind.replace('_', ' ')} {odd[kind][:4]}"
            )
    return _as_module(model)


def _no_weights(source: Source, fault: OSError) -> Exception:
    folder = Path(source.name)
    if not folder.is_dir():
        return _not_reached(source, fault)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
    if pickles:
        return BadCheckpoint(
            f"'{source}' has its weights in a pickle ({pickles[0]}), which may run any code and is "
            f"refused. Convert it where you trust it: "
            f"transformers.AutoModel.from_pretrained('{source.name}').save_pretrained(NEW_FOLDER)"
        )
    said = str(fault).strip().splitlines()[0]
    return BadCheckpoint(f"the weights of '{source}' cannot be read: {said}")


def _not_reached(source: Source, fault: BaseException) -> Exception:
    said = str(fault).strip().splitlines()[0]
    return Offline(
        f"'{source}' is no folder here, and the hub does not have it or is out of reach ({said}). "
        f"Download it where there is a network (hf download {source.name} --local-dir FOLDER) and "
        f"give hf:FOLDER"
    )


def configuration(source: Source) -> Any:
    """The model's configuration. Raises MissingLibrary, CannotOpen, Offline."""
    transformers = library("transformers")
    if "config" in source.options:
        return restored(source.options["config"])
    try:
        with _silent(transformers):
            return transformers.AutoConfig.from_pretrained(source.name, **source.options)
    except OSError as fault:
        if Path(source.name).is_dir():
            raise CannotOpen(f"'{source}' has no config.json that can be read") from fault
        raise _not_reached(source, fault) from fault
    except Exception as fault:
        raise CannotOpen(f"the configuration of '{source}' cannot be read: {fault}") from fault


def restored(data: Any) -> Any:
    """A configuration from what `to_dict` gave. Raises CannotOpen."""
    transformers = library("transformers")
    try:
        with _silent(transformers):
            kind = transformers.AutoConfig.for_model(str(data["model_type"]))
            return type(kind).from_dict(dict(data))
    except Exception as fault:
        raise CannotOpen(f"it holds a configuration that cannot be read: {fault}") from fault


def architecture(config: Any, *, hollow: bool) -> nn.Module:
    """The model of a configuration, without its weights or with random ones. Raises CannotOpen."""
    transformers = library("transformers")
    make = _class(transformers, config)

    def model() -> nn.Module:
        with torch.random.fork_rng(devices=[]), _silent(transformers):
            torch.manual_seed(0)
            return _as_module(make._from_config(config))

    try:
        return built(model, hollow=hollow)
    except Exception as fault:
        raise CannotOpen(f"{make.__name__} cannot be built: {fault}") from fault


def _class(transformers: Any, config: Any) -> Any:
    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    try:
        return transformers.MODEL_MAPPING[type(config)]
    except KeyError:
        raise CannotOpen(
            f"transformers has none of {config.architectures}; code that comes with weights is not "
            f"run: give a factory FILE.py:FUNCTION that makes the model"
        ) from None


def _as_module(model: object) -> nn.Module:
    assert isinstance(model, nn.Module)
    return model.eval()


def default_inputs(model: nn.Module) -> tuple[Input, ...]:
    """What its configuration and its forward say that it takes. Raises CannotOpen."""
    config: Any = model.config
    main = str(getattr(model, "main_input_name", "input_ids"))
    takes = inspect.signature(model.forward).parameters
    wanted = [main]
    if "pixel_values" in takes and hasattr(config, "vision_config"):
        wanted += ["input_ids", "pixel_values"]
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        wanted.append("decoder_input_ids")
    found = [_input(name, config) for name in dict.fromkeys(wanted)]
    return tuple(found)


def named(model: nn.Module, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
    """One input without a name is the main one."""
    if len(inputs) != 1 or inputs[0].name is not None:
        return inputs
    return (replace(inputs[0], name=str(getattr(model, "main_input_name", "input_ids"))),)


def _input(name: str, config: Any) -> Input:
    vision = getattr(config, "vision_config", None) or config
    text = getattr(config, "text_config", None) or config
    if name in ("input_ids", "decoder_input_ids"):
        words: Any = getattr(text, "vocab_size", None) or getattr(config, "vocab_size", 2)
        return Input((BATCH, _TOKENS), int(words), name)
    if name == "pixel_values":
        side = getattr(vision, "image_size", None) or 224
        height, width = side if isinstance(side, list | tuple) else (side, side)
        frames = getattr(vision, "num_frames", None)
        channels = getattr(vision, "num_channels", 3)
        shape = (channels, height, width) if frames is None else (frames, channels, height, width)
        return Input((BATCH, *shape), None, name)
    if name == "input_values":
        return Input((BATCH, _SAMPLES), None, name)
    if name == "input_features":
        bins: Any = getattr(config, "num_mel_bins", 80)
        length: Any = getattr(config, "max_source_positions", 32)
        return Input((BATCH, int(bins), 2 * int(length)), None, name)
    raise CannotOpen(f"its input '{name}' is not known here: give it with --input {name}=SHAPE")


def constants(model: nn.Module) -> dict[str, object]:
    """Keyword arguments that keep a forward pass plain: no cache comes back."""
    takes = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in takes else {}


def written_as(model: nn.Module, folder: Path, call: Call) -> str:
    """Write config.json beside the weights if it describes them. Returns why not, or ''.

    folder: holds the weights as `model.safetensors`, under the names of the state_dict.
    call:   on which the model and what `from_pretrained` makes of the folder must agree.
    """
    config: Any = model.config
    why = _not_described(model, config)
    if why:
        return why
    written = [folder / "config.json"]
    config.save_pretrained(folder)
    settings: Any = getattr(model, "generation_config", None)
    if settings is not None:
        settings.save_pretrained(folder)
        written.append(folder / "generation_config.json")
    why = _another_function(model, folder, call)
    for path in written if why else ():
        path.unlink(missing_ok=True)
    return why


def _not_described(model: nn.Module, config: Any) -> str:
    transformers = library("transformers")
    made: Any = type(model)
    try:
        with torch.device("meta"), _silent(transformers):
            plain = made._from_config(type(config).from_dict(config.to_dict()))
    except Exception as fault:
        return f"its configuration does not build a model any more ({fault})"
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    theirs = {n: tuple(t.shape) for n, t in plain.state_dict().items()}
    odd = sorted(n for n in shapes.keys() | theirs.keys() if shapes.get(n) != theirs.get(n))
    if odd:
        return f"its configuration has no words for {len(odd)} of its shapes ({odd[0]}, ...)"
    return ""


def _another_function(model: nn.Module, folder: Path, call: Call) -> str:
    """Why `from_pretrained` gives another function, or ''.

    The model runs first, and then lies in the file that was written: two in memory are too many.
    """
    transformers = library("transformers")
    made: Any = type(model)
    try:
        wanted = _outputs(model, call)
        _lie_in(model, folder)
        with _silent(transformers):
            again = made.from_pretrained(folder, dtype="auto", use_safetensors=True).eval()
        if _all_equal(_outputs(again, call), wanted):
            return ""
        with _aligned(model):
            wanted = _outputs(model, call)
        with _aligned(again):
            alike = _all_equal(_outputs(again, call), wanted)
    except Exception as fault:
        return f"from_pretrained fails on it ({type(fault).__name__}: {fault})"
    return "" if alike else "its configuration describes another function"


def _outputs(model: nn.Module, call: Call) -> list[Tensor]:
    return record(model, call, training=False, fake=False, keep=False).outputs


@torch.no_grad()
def _lie_in(model: nn.Module, folder: Path) -> None:
    """Take the numbers of a model from the file that holds them: they need no memory then."""
    owned = owned_tensors(model)
    for path in folder.glob("*.safetensors"):
        for name, stored in mapped(path).items():
            own = owned.get(name)
            if own is not None and _fits(stored, own):
                own.set_(stored)  # type: ignore[call-overload]
    trim()


@contextlib.contextmanager
def _aligned(model: nn.Module) -> Iterator[None]:
    """Weights that a file does not have where torch's allocator would put them, in memory.

    Matrix products of the others may be rounded otherwise, and two files lay them out in two ways.
    """
    odd = [t for t in owned_tensors(model).values() if t.data_ptr() % _ALIGNMENT]
    held = [t.data for t in odd]
    try:
        for tensor in odd:
            tensor.data = tensor.data.clone()
        yield
    finally:
        for tensor, data in zip(odd, held, strict=True):
            tensor.data = data


def _fits(stored: Tensor, own: Tensor) -> bool:
    """Some libraries store a tensor in another form than a model holds it."""
    return (stored.shape, stored.dtype, stored.device) == (own.shape, own.dtype, own.device)


def _all_equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(map(_equal, some, others))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())


@contextlib.contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """No bars and warnings on a terminal that is ours."""
    log = transformers.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()
