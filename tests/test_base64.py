"""Images in base64: every common spelling is decoded, everything else is refused with the reason."""

import base64
import textwrap

import pytest
from api_client import ask, base64_of, error_code
from hostile import JPEG, PNG

from app.serving.base64_image import decode_base64
from data import BadImageError

SPELLINGS = {
    "in lines of 76": lambda data: base64.encodebytes(data).decode(),
    "in lines of 64 with Windows line ends": lambda data: "\r\n".join(textwrap.wrap(base64_of(data), 64)),
    "indented": lambda data: textwrap.indent(base64.encodebytes(data).decode(), "\t  "),
    "URL-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "unpadded": lambda data: base64_of(data).rstrip("="),
    "URL-safe, unpadded": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "a data: URI": lambda data: f"data:image/png;base64,{base64_of(data)}",
    "a data: URI without a type": lambda data: f"data:;base64,{base64_of(data)}",
    "a data: URI in capitals and lines": lambda data: f"DATA:image/png;x=y;BASE64,{base64.encodebytes(data).decode()}",
}


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("rest", [0, 1, 2])
def test_every_common_spelling_of_base64_is_decoded(name, rest):
    data = bytes(range(256)) * 3 + b"x" * rest
    assert decode_base64(SPELLINGS[name](data)) == data
    assert decode_base64(SPELLINGS[name](JPEG)) == JPEG, "begins with a slash"


def test_an_image_is_the_same_in_every_spelling_of_base64(client):
    inputs = [{"image": spell(PNG), "text": "x"} for spell in (base64_of, *SPELLINGS.values())]
    replies = client.post("/v1/predict", json={"inputs": inputs}).json()["predictions"]
    assert all(reply == replies[0] for reply in replies)
    assert replies[0]["labels"]


SOME = base64_of(b"some bytes of an image")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("https://example.org/x.png", "'https://example.org/x.png'"),
        ("HTTP:/example.org/x", "address or a path"),
        ("s3://bucket/key", "address or a path"),
        ("file:///etc/passwd", "address or a path"),
        ("/etc/passwd", "address or a path"),
        ("images/my cat.jpeg", "address or a path"),
        ("../cat", "address or a path"),
        ("~/cat", "address or a path"),
        ("C:\\cat.png", "address or a path"),
        ("", "empty"),
        (" \n", "empty"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png,abc", "without base64"),
        ("data:image/png;base64", "without base64|empty"),
        (SOME[:7] + "%" + SOME[7:], "character 8 is '%'"),
        (SOME[:7] + "=" + SOME[7:], "character 8 is '='"),
        (SOME[:7] + "\u00a0" + SOME[7:], r"character 8 is '\\xa0'"),
        (SOME[:7] + "\0" + SOME[7:], r"character 8 is '\\x00'"),
        ("data:image/png;base64,AB%2B", "character 3 is '%'"),
        (SOME + "=", "cut off"),
        (SOME.rstrip("=")[:21], "21 characters .* cut off"),
        ("=" * 4, "cut off"),
        ("x" * 300_000 + "%", "character 300,001 is '%'"),
    ],
)
def test_an_image_that_is_not_base64_is_refused_with_the_reason(image, reason):
    with pytest.raises(BadImageError, match=reason) as error:
        decode_base64(image)
    assert len(str(error.value)) < 250


def test_an_image_that_is_not_base64_is_refused(client):
    reply = ask(client, image="/etc/passwd", text="x")
    assert (reply.status_code, error_code(reply)) == (422, "unreadable_image")
