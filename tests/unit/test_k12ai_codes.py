"""The code table, and the code of each exception (spec/k12ai.md, 2)."""

from __future__ import annotations

import pytest

from runyard.training.codes import TEXTS, Code, code_of, text_of


@pytest.mark.parametrize(
    ("err_type", "err_text", "code"),
    [
        ("MemoryError", "", 100901),
        ("NotImplementedError", "", 100902),
        ("ConfigurationError", "", 100903),
        ("FileNotFoundError", "x", 100905),
        ("ImageNotFound", "x", 100905),
        ("RuntimeError", "CUDA out of memory. Tried to allocate", 100906),
        ("RuntimeError", "CUDA error: out of memory", 100906),
        ("torch.cuda.OutOfMemoryError", "", 100906),
        ("LossNanError", "", 100907),
        ("ModuleNotFoundError", "No module named 'x'", 100910),
        ("IndexError", "", 100911),
        ("NameError", "", 100912),
        ("KeyError", "'lr'", 100913),
        ("AttributeError", "", 100914),
        ("SyntaxError", "", 100915),
        ("IndentationError", "", 100916),
        ("TabError", "", 100916),
        ("TypeError", "unsupported operand type(s) for +", 100918),
        ("TypeError", "missing 1 required", 100917),
        ("ZeroDivisionError", "", 100930),
        ("ConfigMissingException", "", 100233),
        ("RuntimeError", "something else", 999999),
        ("my.own.Error", "", 999999),
        ("", "", 999999),
    ],
)
def test_the_code_of_an_exception(err_type: str, err_text: str, code: int) -> None:
    assert code_of(err_type, err_text) == code
    assert code in TEXTS


@pytest.mark.parametrize(
    ("err_type", "err_text", "code"),
    [
        ("InvalidModel", "", 100302),
        ("InvalidOptimizerMethod", "", 100303),
        ("InvalidPadMode", "", 100304),
        ("InvalidAnchorMethod", "", 100305),
        ("ImageTypeError", "", 100306),
        ("TensorSizeError", "", 100307),
        ("RuntimeError", "size mismatch, m1: [4 x 5]", 100401),
        ("RuntimeError", "pad should be smaller than half of kernel size", 100402),
        ("TypeError", "__init__() missing 'in_channels'", 100403),
        ("NameError", "name 'conv1_feat' is not defined", 100404),
        ("KeyError", "'x'", 100913),
    ],
)
def test_k12cv_has_codes_of_its_own(err_type: str, err_text: str, code: int) -> None:
    assert code_of(err_type, err_text, vision=True) == code


def test_every_code_has_a_text_in_two_languages() -> None:
    assert all(english and chinese for english, chinese in TEXTS.values())
    assert set(Code) <= set(TEXTS)
    assert text_of(123)[0] and text_of(123)[1]
