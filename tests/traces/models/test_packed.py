"""Weights in fewer bits: what a quantiser owes whatever its format, and sizes as the models' profiles have them."""

import pytest
import torch

from sim.prices import ModelProfile, shipped
from traces.models.packed import FORMATS, Format, fake_quantised

INTEGERS = {name: how for name, how in FORMATS.items() if isinstance(how, Format)}
SHAPES = ((1, 1), (5, 3), (7, 128), (6, 300))
"""(outputs, inputs): below a group, one, and more with a rest; numbers of codes that fill no whole byte."""


def matrix(outputs: int, inputs: int, size: float, shift: float = 0.0) -> torch.Tensor:
    numbers = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(outputs + inputs))
    return (numbers + shift) * size


def steps_of(weights: torch.Tensor, how: Format) -> torch.Tensor:
    """The step of each weight, [outputs, inputs], worked out from the range alone."""
    parts = []
    for group in weights.split(how.group or weights.shape[1], dim=1):
        low, high = group.amin(1, keepdim=True).clamp(max=0), group.amax(1, keepdim=True).clamp(min=0)
        span = (high - low) / (2**how.bits - 1) if how.group else torch.maximum(high, -low) / (2 ** (how.bits - 1) - 1)
        parts.append(span.expand_as(group))
    return torch.cat(parts, 1)


# A scale that is another's, codes in another order, an end of the range that is cut off.
@pytest.mark.parametrize("how", INTEGERS.values(), ids=INTEGERS)
@pytest.mark.parametrize("shift", [0.0, 4.0, -4.0])
def test_the_error_is_half_a_step_and_a_second_time_changes_nothing(how: Format, shift: float) -> None:
    for outputs, inputs in SHAPES:
        for size in (0.01, 300.0):
            weights = matrix(outputs, inputs, size, shift)
            packed = how.pack(weights)
            assert len(packed) == how.nbytes(outputs, inputs)
            found = fake_quantised(weights, how)
            # A scale has 11 bits: the last of up to 15 steps (int8: it is cut off) is so much off at the most.
            assert ((found - weights).abs() <= (0.5 + 15 / 2**10) * steps_of(weights, how)).all()
            assert torch.equal(fake_quantised(found, how), found)
            assert torch.equal(how.pack(found), packed)
            assert (weights[found == 0].abs() <= 0.52 * steps_of(weights, how)[found == 0]).all()


@pytest.mark.parametrize("how", INTEGERS.values(), ids=INTEGERS)
def test_what_can_be_said_in_its_codes_is_kept_to_the_bit(how: Format) -> None:
    codes, generator = 2**how.bits, torch.Generator().manual_seed(1)
    zero = 3 * codes // 4 if how.group else codes // 2
    numbers = torch.randint(0 if how.group else 1, codes, (9, 256), generator=generator)
    numbers[:, ::128], numbers[:, 1::128] = (0 if how.group else 1), codes - 1  # each group has both ends
    scales = torch.tensor([2.0**-k * 1.25 for k in range(9)])[:, None]
    weights = (numbers - zero) * scales
    assert torch.equal(fake_quantised(weights, how), weights)
    assert torch.equal(fake_quantised(torch.zeros(3, 130), how), torch.zeros(3, 130))


def test_more_bits_are_closer() -> None:
    weights = matrix(16, 256, 0.1)
    errors = [(fake_quantised(weights, FORMATS[name]) - weights).square().mean() for name in ("int8", "int4", "int2")]
    assert errors == sorted(errors)
    assert errors[0] > 0
    stacked = torch.stack([weights, 2 * weights]).to(torch.bfloat16)
    assert torch.equal(fake_quantised(stacked, FORMATS["int4"])[1], fake_quantised(stacked[1], FORMATS["int4"]))
    assert torch.equal(fake_quantised(stacked, FORMATS["bfloat16"]), stacked)


@pytest.mark.parametrize("name", ["mixtral_8x7b", "olmoe_1b_7b", "qwen3_30b_a3b"])
def test_sizes_are_those_that_the_profiles_price(name: str) -> None:
    model = ModelProfile.from_dict(shipped("model", name))
    matrices = 2 * [(model.expert_width, model.hidden)] + [(model.hidden, model.expert_width)]
    for dtype in FORMATS.keys() & model.expert_bytes:
        assert sum(FORMATS[dtype].nbytes(*sides) for sides in matrices) == model.expert_bytes[dtype]


# Both ends of a range between two codes: rounded to the even one, each would lose the last code, and the step changes.
def test_a_range_whose_ends_lie_between_two_codes_keeps_all_codes() -> None:
    weights = torch.tensor([[-8.5, 6.5, 0.25]])
    found = fake_quantised(weights, FORMATS["int4"])
    assert torch.equal(fake_quantised(found, FORMATS["int4"]), found)
    assert float(found.max() - found.min()) == 15
