"""The registry of cures."""

import dataclasses

import pytest

from rlkit.core.errors import ConfigError
from rlkit.plasticity.interventions import INTERVENTIONS, find


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_every_line_builds_from_its_defaults(name):
    kind = find(name)
    assert kind.summary
    assert dataclasses.is_dataclass(kind.config)
    cure = kind.build(kind.config())
    for method in ("attach", "due", "apply", "state_dict", "load_state_dict"):
        assert callable(getattr(cure, method))
    assert cure.score in (None, "redo", "redo_centred", "ace", "grama")


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_settings_are_frozen(name):
    config = find(name).config()
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, 1)


def test_an_unknown_name_is_told_the_nearest_and_all():
    with pytest.raises(ConfigError, match=r"Did you mean 'regrama'\?") as error:
        find("regram")
    assert all(name in str(error.value) for name in INTERVENTIONS)
