"""The built-in units, one call at a time, on real data."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from runyard.flow.buffer import Buffer, BufferList, DataType
from runyard.flow.configuration import Configuration
from runyard.flow.session import SessionContext
from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit import DataContext, FlowUnit
from runyard.flow.unit_library import UnitLibrary
from runyard.flow.units import BUILTIN
from runyard.flow.units.base64_decoder import Base64Decoder
from runyard.flow.units.buff_meta_mapping import BuffMetaMapping
from runyard.flow.units.data_source_generator import DataSourceGenerator
from runyard.flow.units.http.reply import HttpSyncReply
from runyard.flow.units.image_decoder import ImageDecoder
from runyard.flow.units.resize import INTERPOLATIONS, Resize

RED, GREEN = (255, 0, 0), (0, 255, 0)


def opened(unit: FlowUnit, **options: Any) -> FlowUnit:
    unit.open(Configuration(options))
    return unit


def run(unit: FlowUnit, *buffers: Buffer) -> list[Buffer]:
    """What a unit with one input and one output makes of the buffers, in one call."""
    info = unit.info  # type: ignore[attr-defined]
    context = DataContext(
        SessionContext(),
        tuple(port.name for port in info.outputs),
        {},
        inputs={info.inputs[0].name: BufferList(list(buffers))},
    )
    assert unit.process(context) in (None, StatusCode.STATUS_SUCCESS)
    return list(context.output(info.outputs[0].name))


def encoded(form: str = "PNG", size: tuple[int, int] = (8, 6), mode: str = "RGB") -> bytes:
    """A picture whose left half is red and right half is green."""
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (size[0] // 2, 0, *size))
    file = io.BytesIO()
    image.convert(mode).save(file, form)
    return file.getvalue()


def test_the_table_of_units_agrees_with_the_units() -> None:
    library = UnitLibrary()
    for name, entry in BUILTIN.items():
        info = library.find(name, "cpu")
        assert info is not None and info.name == name and info.entry == entry and info.description
        assert info.group in {"Input", "Output", "Image"} and info.version == "1.0.0"
    shapes = {
        name: ([port.name for port in info.inputs], [port.name for port in info.outputs], info.kind.value)
        for name in BUILTIN
        if (info := library.find(name))
    }
    assert shapes == {
        "httpserver_sync_receive": ([], ["out_request_info"], "normal"),
        "httpserver_async": ([], ["out_request_info"], "normal"),
        "httpserver_sync_reply": (["in_reply_info"], [], "stream"),
        "data_source_generator": ([], ["out_data"], "normal"),
        "base64_decoder": (["in_data"], ["out_data"], "normal"),
        "buff_meta_mapping": (["in_data"], ["out_data"], "stream"),
        "image_decoder": (["in_encoded_image"], ["out_image"], "normal"),
        "resize": (["in_image"], ["out_image"], "normal"),
    }


@pytest.mark.parametrize(
    ("unit", "options", "words"),
    [
        (Base64Decoder, {"data_format": "xml"}, "raw or json"),
        (Base64Decoder, {"data_format": "json"}, "key"),
        (BuffMetaMapping, {}, "src_meta"),
        (BuffMetaMapping, {"src_meta": "a"}, "dest_meta"),
        (BuffMetaMapping, {"src_meta": "a", "dest_meta": "b", "rules": "x"}, "malformed"),
        (BuffMetaMapping, {"src_meta": "a", "dest_meta": "b", "rules": "x=1,=2"}, "malformed"),
        (BuffMetaMapping, {"src_meta": "a", "dest_meta": "b", "rules": "x=1=2"}, "malformed"),
        (ImageDecoder, {"pix_fmt": "yuv"}, "pix_fmt"),
        (Resize, {}, "image_width"),
        (Resize, {"image_width": "8"}, "image_height"),
        (Resize, {"width": "0", "height": "8"}, "image_width"),
        (Resize, {"width": "-1", "height": "8"}, "image_width"),
        (Resize, {"width": "many", "height": "8"}, "whole number"),
        (Resize, {"width": "30000", "height": "30000"}, "image_width"),
        (Resize, {"width": "8", "height": "8", "interpolation": "best"}, "interpolation"),
        (DataSourceGenerator, {"source_type": "url"}, "source_type and source config must be set"),
        (DataSourceGenerator, {"url": "x"}, "source_type and source config must be set"),
    ],
)
def test_bad_options_are_refused_with_their_name(unit: type[FlowUnit], options: dict[str, str], words: str) -> None:
    with pytest.raises(FlowError, match=words) as caught:
        opened(unit(), **options)
    assert caught.value.status.code() == StatusCode.STATUS_BADCONF


def test_the_reply_refuses_an_unknown_content_type() -> None:
    status = HttpSyncReply().open(Configuration({"content_type": "exe"}))
    assert status is not None and status.code() == StatusCode.STATUS_BADCONF
    assert status.errormsg().startswith("unsupport content type exe")
    context = DataContext(SessionContext(), (), {}, inputs={"in_reply_info": BufferList(Buffer(b"x"))})
    alone = HttpSyncReply().process(context)
    assert alone is not None and "http reply handler is nullptr." in alone.errormsg()


# Data ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"aGVsbG8=", b"hello"),
        ("aGVsbG8=", b"hello"),
        (b"aGVs\r\nbG8=\n", b"hello"),
        (b"", b""),
        (base64.b64encode(bytes(range(256))), bytes(range(256))),
        (b"aGVsbG8", None),
        (b"aGVsbG8=x", None),
        (b"a", None),
        ("grüße", None),
        (b"\xff\xfe\0", None),
    ],
)
def test_base64_raw(text: bytes | str, expected: bytes | None) -> None:
    good = Buffer(b"b2s=")
    result, neighbour = run(opened(Base64Decoder()), Buffer(text, meta={"uri": "/x"}), good)
    assert neighbour.as_bytes() == b"ok", "a bad buffer does not spoil its batch"
    if expected is None:
        assert result.get_error_code() == "base64_decoder.ProcessError"
        assert result.get_error_msg().startswith("base64 decode failed: ")
    else:
        assert not result.has_error() and result.as_bytes() == expected
        assert result.meta == {"uri": "/x", "size": len(expected)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"image_base64": "b2s="}', None),
        ('{"other": 1, "image_base64": "b2s="}', None),
        ('{"image": "b2s="}', "no object with the key 'image_base64'"),
        ('{"image_base64": 5}', "is no text"),
        ("[]", "no object"),
        ("{", "decode failed"),
        ("", "decode failed"),
        ("[" * 100_000, "decode failed"),
        ('{"image_base64": "%"}', "decode failed"),
    ],
)
def test_base64_in_json(text: str, words: str | None) -> None:
    (result,) = run(opened(Base64Decoder(), data_format="json", key="image_base64"), Buffer(text))
    if words is None:
        assert result.as_bytes() == b"ok"
    else:
        assert words in result.get_error_msg()


@pytest.mark.parametrize(
    ("rules", "value", "expected"),
    [
        ("", "cat", "cat"),
        ("cat=dog", "cat", "dog"),
        ("cat = dog , a=b", "cat", "dog"),
        ("cat=dog", "cow", "cow"),
        ("1=2", 1, 2),
        ("1=2", 3, 3),
        ("0.5=1", 0.5, 1.0),
        ("true=false", True, False),
        ("x=1", [1, 2], [1, 2]),
    ],
)
def test_meta_mapping(rules: str, value: object, expected: object) -> None:
    options = {"src_meta": "kind", "dest_meta": "class"} | ({"rules": rules} if rules else {})
    unit = opened(BuffMetaMapping(), **options)
    original = Buffer(b"data", meta={"kind": value})
    plain = Buffer(b"plain")
    mapped, passed = run(unit, original, plain)
    assert mapped.meta == {"kind": value, "class": expected} and type(mapped.meta["class"]) is type(expected)
    assert mapped.as_bytes() == b"data" and passed is plain
    assert original.meta == {"kind": value}, "others may share it"


def test_a_replacement_of_another_type_is_an_error() -> None:
    (result,) = run(opened(BuffMetaMapping(), src_meta="n", dest_meta="m", rules="1=one"), Buffer(meta={"n": 1}))
    assert result.has_error() and "1=one" in result.get_error_msg() and "int" in result.get_error_msg()


def test_the_generator_sends_its_options_once() -> None:
    class Host:
        """A flow that takes what a source sends."""

        node_name = "source"
        sent: list[Any] = []
        closed = False

        def create_external_data(self) -> Any:
            return self

        def send(self, buffers: Any, wait: bool = True) -> bool:
            self.sent.extend(buffers)
            return True

        def close(self) -> None:
            self.closed = True

    unit = DataSourceGenerator()
    unit._host = host = Host()
    opened(unit, flowunit="data_source_generator", type="flowunit", device="cpu", source_type="url", url="/a", n=5)
    (buffer,) = host.sent
    assert host.closed and buffer.get("source_type") == "url"
    assert json.loads(str(buffer)) == {"url": "/a", "n": "5"}
    context = DataContext(SessionContext(), ("out_data",), {}, external=BufferList(buffer))
    unit.process(context)
    assert context.output("out_data") == [buffer]


# Pictures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP"])
@pytest.mark.parametrize("pix_fmt", ["bgr", "rgb"])
def test_the_decoder_reads_pictures(form: str, pix_fmt: str) -> None:
    (result,) = run(opened(ImageDecoder(), pix_fmt=pix_fmt), Buffer(encoded(form, (64, 48)), meta={"uri": "/x"}))
    assert result.meta == {
        "uri": "/x",
        "width": 64,
        "height": 48,
        "width_stride": 192,
        "height_stride": 48,
        "channel": 3,
        "pix_fmt": pix_fmt,
        "type": DataType.UINT8,
        "shape": [48, 64, 3],
        "layout": "hwc",
    }
    pixels = np.array(result)
    assert pixels.shape == (48, 64, 3) and pixels.dtype == np.uint8
    left, right = (RED, GREEN) if pix_fmt == "rgb" else (RED[::-1], GREEN[::-1])
    assert np.abs(pixels[24, 8].astype(int) - left).max() < 12
    assert np.abs(pixels[24, 56].astype(int) - right).max() < 12


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_the_decoder_makes_three_channels_of_any_picture(mode: str) -> None:
    (result,) = run(opened(ImageDecoder()), Buffer(encoded("PNG", mode=mode)))
    assert result.get("shape") == [6, 8, 3]


@pytest.mark.parametrize("size", [(8, 6), (9, 7)])
def test_the_decoder_makes_nv12(size: tuple[int, int]) -> None:
    grey = np.full((size[1], size[0], 3), 100, np.uint8)
    data = cv2.imencode(".png", grey)[1].tobytes()
    (result,) = run(opened(ImageDecoder(), pix_fmt="nv12"), Buffer(data))
    assert (result.get("width"), result.get("height"), result.get("shape")) == (8, 6, [9, 8, 1])
    assert (result.get("width_stride"), result.get("channel")) == (8, 1)
    back = cv2.cvtColor(np.array(result).reshape(9, 8), cv2.COLOR_YUV2BGR_NV12)
    assert np.abs(back.astype(int) - 100).max() <= 3
    (red,) = run(opened(ImageDecoder(), pix_fmt="nv12"), Buffer(encoded("PNG", (8, 6))))
    colours = cv2.cvtColor(np.array(red).reshape(9, 8), cv2.COLOR_YUV2RGB_NV12)
    assert np.abs(colours[3, 1].astype(int) - RED).max() < 12


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        encoded("JPEG", (64, 64))[:200],
        encoded("JPEG", (64, 64))[:-2],
        encoded("PNG", (64, 64))[:60],
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\x7f\xff\xff\xff" * 2 + b"\x08\2\0\0\0" + b"\0" * 4,
        None,
    ],
    ids=["empty", "text", "half a jpeg", "jpeg without its end", "half a png", "a huge png", "nothing"],
)
def test_what_is_no_picture_is_an_error_and_not_a_crash(data: bytes | None) -> None:
    good = Buffer(encoded())
    result, neighbour = run(opened(ImageDecoder()), Buffer(data), good)
    assert result.error == ("ImageDecoder.DecodeFailed", "input image buffer is invalid, imdecode failed.")
    assert not neighbour.has_error()


@pytest.mark.parametrize("names", [("image_width", "image_height"), ("width", "height")])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS[:5])
def test_resize(names: tuple[str, str], interpolation: str) -> None:
    (picture,) = run(opened(ImageDecoder(), pix_fmt="rgb"), Buffer(encoded("PNG", (64, 48))))
    unit = opened(Resize(), **{names[0]: "32", names[1]: "16"}, interpolation=interpolation)
    (result,) = run(unit, picture)
    assert [result.get(key) for key in ("width", "height", "width_stride", "shape", "pix_fmt", "channel")] == [
        32,
        16,
        96,
        [16, 32, 3],
        "rgb",
        3,
    ]
    pixels = np.array(result)
    assert tuple(pixels[8, 4]) == RED and tuple(pixels[8, 28]) == GREEN
    assert picture.get("width") == 64 and np.array(picture).shape == (48, 64, 3), "the original is as it was"


def test_resize_takes_raw_bytes_with_meta_and_gray_arrays() -> None:
    unit = opened(Resize(), width="2", height="2")
    raw = Buffer(bytes(4 * 4 * 3), meta={"width": 4, "height": 4, "channel": 3})
    gray = Buffer(np.full((4, 4, 1), 7, np.uint8))
    results = run(unit, raw, gray)
    assert [np.array(result).shape for result in results] == [(2, 2, 3), (2, 2, 1)]
    assert np.array(results[1]).max() == 7 and results[1].get("pix_fmt") == "gray"


@pytest.mark.parametrize(
    ("buffer", "words"),
    [
        (Buffer(b"abc"), "no image"),
        (Buffer(), "no image"),
        (Buffer("text", meta={"width": 2, "height": 2, "pix_fmt": "rgb"}), "elements"),
        (Buffer(b"abc", meta={"width": 4, "height": 4, "pix_fmt": "rgb"}), "4x4x3"),
        (Buffer(b"abc", meta={"width": "4", "height": 4, "pix_fmt": "rgb"}), "width '4'"),
        (Buffer(b"abc", meta={"width": 1, "height": 1, "pix_fmt": "nv12"}), "nv12"),
        (Buffer(b"abc", meta={"width": 1, "height": 1, "pix_fmt": "rgb", "layout": "chw"}), "chw"),
        (Buffer(np.zeros((2, 2, 3), np.float32)), "float32"),
        (Buffer({"a": 1}, meta={"width": 1, "height": 1, "pix_fmt": "rgb"}), "resize failed"),
    ],
)
def test_what_can_not_be_resized_is_an_error(buffer: Buffer, words: str) -> None:
    (result,) = run(opened(Resize(), width="2", height="2"), buffer)
    assert result.get_error_code() == "resize.ProcessError" and words in result.get_error_msg()
