"""Which files hold images, by their names and, where these do not tell, by their content."""

import os

from PIL import Image

# Formats that paintings come in. EPS would start another program; stub, icon and video formats are left out.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "JPEG2000", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA", "PCX")
NOT_READ = {  # images that Pillow does not read by itself: phones', newer ones, editors' and cameras' raw files
    ".heic", ".heif", ".hif", ".jxl", ".jxr", ".psd", ".xcf", ".kra", ".exr", ".hdr",
    ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw",
}  # fmt: skip


def is_image(name: str) -> bool:
    """Whether a file's name ends as Pillow registers it for one of `FORMATS`."""
    return Image.registered_extensions().get(os.path.splitext(name)[1].lower()) in (*FORMATS, "MPO")  # opened as JPEG


def looks_like_image(path: str) -> bool:
    """Whether a file that is not named as one of `FORMATS` is an image of these, or named as one of another format."""
    if os.path.splitext(path)[1].lower() in NOT_READ:
        return True
    try:
        if not os.path.isfile(path):  # opening a pipe would wait for its writer
            return False
        with Image.open(path, formats=[kind for kind in FORMATS if kind != "TGA"]):  # which has no first bytes
            return True
    except Exception:
        return False
