"""Assembles stage 4: the speech generator of a preset and its training data.

Nano's generator and the trained half of its vocoder are stored in `speech_generator/`; any other preset's generator is
one file, `speech_generator.safetensors`, with UnitGenerator's tensor names.
"""

from pathlib import Path

from safetensors.torch import load_file, save_file

from model_core.data.files import written_aside
from model_core.data.rows import LightSample
from model_core.errors import CheckpointError, InvalidInput
from model_core.presets import SPEECH_GENERATOR_FOLDER, get_preset, lyra_home
from model_core.speech.character_unit_generator import CharacterUnitGenerator
from model_core.speech.codebook import read_codebook
from model_core.speech.unit_generator import UnitGenerator
from model_core.training.assembly import Assembly, Models
from model_core.training.options import Source, StageOptions
from model_core.training.speech_generator import (
    CharacterUnitCollate,
    CharacterUnitModule,
    UnitDataset,
    UnitGeneratorModule,
    collate_units,
)

GENERATOR_FILE = f"{SPEECH_GENERATOR_FOLDER}.safetensors"
_CODEBOOK_FILE = "codebook.safetensors"


def speech_assembly(models: Models, options: StageOptions, data: UnitDataset) -> Assembly:
    """Stage 4.

    Args:
        models: The preset's models.
        options: Options of the run.
        data: Training data.

    Raises:
        InvalidInput: a unit is out of the generator's range, nano has several data sets or one without a codebook.
        CheckpointError: the run starts from another generator.
    """
    ids = (models.tokenizer.token_to_id(token) for token in models.template.stop_tokens)
    stops = [token for token in ids if token is not None]
    config = _unit_generator(options.preset)
    if isinstance(config, CharacterUnitGenerator.Config):
        return _character_assembly(options, stops)
    generator = config.build()
    data.check_units(generator.units)
    if found := options.start.find(GENERATOR_FILE):
        _load(generator, found)
    module = UnitGeneratorModule(models.decoder, generator, stops)

    def write(folder: Path) -> None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()}
        with written_aside(folder / GENERATOR_FILE) as partial:
            save_file(tensors, partial)

    return Assembly(module, collate_units, _has_units, write)


def _character_assembly(options: StageOptions, stops: list[int]) -> Assembly:
    # Imported here: it reads nano's own files.
    from model_core.presets.nano_voice import untrained_generator, untrained_vocoder

    home = options.home or lyra_home()
    codebook = read_codebook(_codebook_of(options.data))
    module = CharacterUnitModule(untrained_generator(home), untrained_vocoder(home), codebook)
    return Assembly(
        module,
        CharacterUnitCollate(codebook, stops, options.seed),
        _has_units,
        lambda folder: module.write(folder / SPEECH_GENERATOR_FOLDER),
    )


def _codebook_of(sources: tuple[Source, ...]) -> Path:
    if len(sources) > 1:
        raise InvalidInput("data", "nano's speech generator takes one data set, whose codebook defines its units")
    path = sources[0].folder / _CODEBOOK_FILE
    if not path.is_file():
        raise InvalidInput("data", f"{sources[0].folder} has no {_CODEBOOK_FILE}: `lyra data build speech-generation`")
    return path


def _unit_generator(preset: str) -> UnitGenerator.Config | CharacterUnitGenerator.Config:
    if (config := get_preset(preset).unit_generator) is None:
        raise InvalidInput("preset", f"preset {preset} has no speech generator")
    return config()


def _load(generator: UnitGenerator, path: Path) -> None:
    try:
        generator.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise CheckpointError(str(path), "is a speech generator of another shape, for another preset") from error


def _has_units(sample: LightSample, length: int) -> str | None:
    return None if any(sample.unit_counts) else "no-units"
