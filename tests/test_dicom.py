"""DICOM files: values of the modality, windows, inverted grey, colour, and files that cannot be read."""

import io
import sys
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from data import decode_image
from data.image_formats import BadImageError
from data.images import check_and_measure, count_pixels
from data.value_range import EIGHT_BIT


def dicom(pixels: np.ndarray, syntax=ExplicitVRLittleEndian, **elements) -> bytes:
    """A DICOM file of an array ``(h, w)`` of 16-bit values or ``(h, w, 3)`` of 8-bit values."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    is_color = pixels.ndim == 3
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if is_color else 1
    dataset.PhotometricInterpretation = "RGB" if is_color else "MONOCHROME2"
    if is_color:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 if is_color else 16
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.PixelData = pixels.astype(np.uint8 if is_color else np.uint16).tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


HOUNSFIELD = {"RescaleSlope": 1, "RescaleIntercept": -1024}
SOFT = {"WindowCenter": 40, "WindowWidth": 401}
"""A window from -160.5 to 239.5 (PS3.3, section C.11.2.1.2)."""


def grey(data: bytes, value_range=None) -> np.ndarray:
    return np.asarray(decode_image(data, value_range=value_range))[..., 0]


def test_the_window_of_the_file_decides_what_is_black_and_white():
    values = np.array([[-1000, -161], [39, 239]]) + 1024
    assert grey(dicom(values, **HOUNSFIELD, **SOFT)).tolist() == [[0, 0], [127, 255]]


def test_a_window_that_the_user_chose_comes_first():
    values = np.array([[-1000, -160], [40, 240]]) + 1024
    assert grey(dicom(values, **HOUNSFIELD, **SOFT), [-1000, 240]).tolist()[0][0] == 0
    assert grey(dicom(values, **HOUNSFIELD, **SOFT), [-1000, 240]).tolist()[0][1] == round(840 / 1240 * 255)
    found = grey(dicom(values, **HOUNSFIELD, **SOFT), {"integer": [-1000, 240]})
    assert found[0, 1] <= 1, "a range chosen from the training images does not"


def test_without_a_window_values_are_those_of_the_modality():
    values = np.array([[0, 1024], [2048, 4095]])
    _, stats = check_and_measure([dicom(values, **HOUNSFIELD)])
    assert stats[1:3] == (-1024, 3071)
    _, stats = check_and_measure([dicom(values, **HOUNSFIELD, **SOFT)])
    assert stats == EIGHT_BIT, "it needs no range"
    _, stats = check_and_measure([dicom(values, RescaleSlope=0.5, RescaleIntercept=0)])
    assert stats[2] == 2047.5


def test_of_several_windows_the_first_is_taken_and_an_empty_one_is_ignored():
    values = np.array([[1024, 1024 + 100]])
    two = {"WindowCenter": [51, 500], "WindowWidth": [101, 1000]}
    assert grey(dicom(values, **HOUNSFIELD, **two)).tolist() == [[0, 254]]
    _, stats = check_and_measure([dicom(values, **HOUNSFIELD, WindowCenter=50, WindowWidth=0)])
    assert stats[0] == 0


def test_inverted_grey_is_shown_upright():
    values = np.array([[0, 65535]])
    assert grey(dicom(values)).tolist() == [[0, 255]]
    assert grey(dicom(values, PhotometricInterpretation="MONOCHROME1")).tolist() == [[255, 0]]


def test_colours_are_kept():
    picture = np.zeros((2, 3, 3), dtype=np.uint8)
    picture[0, 0] = (255, 128, 0)
    assert np.asarray(decode_image(dicom(picture))).tolist() == picture.tolist()


def test_colours_of_16_bits_keep_their_order():
    data = dicom(np.zeros((1, 2, 3)), BitsAllocated=16, BitsStored=16, HighBit=15)
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.PixelData = np.array([[[0, 256, 57300], [65535, 300, 1]]], dtype=np.uint16).tobytes()
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    assert np.asarray(decode_image(file.getvalue())).tolist() == [[[0, 1, 223], [255, 1, 0]]]


def test_a_palette_gives_the_colours_of_its_entries():
    palette = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color, entries in (("Red", [0, 255]), ("Green", [0, 128]), ("Blue", [255, 0])):
        palette[f"{color}PaletteColorLookupTableDescriptor"] = [2, 0, 8]
        palette[f"{color}PaletteColorLookupTableData"] = bytes(entries)
    found = np.asarray(decode_image(dicom(np.array([[0, 1]]), **palette)))
    assert found.tolist() == [[[0, 0, 255], [255, 128, 0]]]


def test_an_enhanced_file_has_the_values_and_the_window_of_its_first_frame():
    rescale, window, groups = Dataset(), Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024
    window.WindowCenter, window.WindowWidth = 40, 401
    groups.PixelValueTransformationSequence, groups.FrameVOILUTSequence = Sequence([rescale]), Sequence([window])
    data = dicom(np.array([[0, 1024 + 39]]), SharedFunctionalGroupsSequence=Sequence([groups]))
    assert grey(data).tolist() == [[0, 127]]


def test_empty_elements_are_ignored():
    data = dicom(np.array([[5, 9]]), RescaleSlope=None, RescaleIntercept=None, WindowCenter=None, WindowWidth=None)
    _, stats = check_and_measure([data])
    assert stats[1:3] == (5, 9)


def test_of_several_frames_the_first_is_read():
    frames = np.stack([np.full((2, 2), 7), np.full((2, 2), 9)])
    data = dicom(frames[0], NumberOfFrames=2, PixelData=frames.astype(np.uint16).tobytes(), **SOFT)
    assert decode_image(data).size == (2, 2)


def test_files_that_cannot_be_read_say_why(monkeypatch):
    good = dicom(np.zeros((4, 4)))
    with pytest.raises(BadImageError, match=r"4×4 is more than the 8 pixels allowed"):
        decode_image(good, 8)
    with pytest.raises(BadImageError):
        decode_image(good[: len(good) - 10])
    with pytest.raises(BadImageError):
        decode_image(good[:132] + b"nothing")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(BadImageError, match=r"DICOM, which needs: pip install pydicom"):
        decode_image(good)


def test_a_deflated_file_is_refused_before_it_is_inflated(monkeypatch):
    data = dicom(np.zeros((64, 64)), DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr(zlib, "decompress", lambda *args, **kwargs: pytest.fail("inflated"))
    monkeypatch.setattr(zlib, "decompressobj", lambda *args, **kwargs: pytest.fail("inflated"))
    with pytest.raises(BadImageError, match="deflated DICOM"):
        decode_image(data)
    assert count_pixels(data) == 0


def test_the_server_counts_the_pixels_of_a_file_before_it_is_decoded():
    assert count_pixels(dicom(np.zeros((30, 40)))) == 1200


def test_a_model_answers_about_a_dicom_file(asked, tmp_path):
    file = tmp_path / "slice.dcm"
    file.write_bytes(dicom(np.arange(64 * 64).reshape(64, 64), **SOFT))
    assert asked(str(file), "what color is the circle?")
