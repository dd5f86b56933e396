"""Which files hold pictures, by their names and by their first bytes."""

import os

from PIL import Image

# Formats that paintings come in. EPS would start another program; stub, icon and video formats are left out.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "JPEG2000", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA", "PCX")
SIGNATURES = (  # of the formats above, and of others that hold pictures
    b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51",
    b"P4\n", b"P5\n", b"P6\n", b"II+\0", b"MM\0+",  # PPM, BigTIFF
    b"8BPS", b"gimp xcf", b"%!PS", b"\0\0\1\0", b"icns", b"\x76\x2f\x31\x01", b"#?RADIANCE", b"DDS ", b"qoif",
    b"\xff\x0a", b"\0\0\0\x0cJXL ", b"II\xbc\x01",  # JPEG XL, JPEG XR
    b"FUJIFILM", b"IIU\0", b"IIRO", b"IIRS",  # cameras' raw files; most others begin as TIFF does
)  # fmt: skip
BOXES = {  # HEIF, AVIF and Canon's raw files name themselves after four bytes
    b"ftyp" + brand for brand in b"heic,heix,heim,heis,hevc,mif1,msf1,avif,avis,crx ".split(b",")
}


def is_image(name: str) -> bool:
    """Whether a file's name ends as Pillow registers it for one of `FORMATS`."""
    return Image.registered_extensions().get(os.path.splitext(name)[1].lower()) in (*FORMATS, "MPO")  # opened as JPEG


def looks_like_image(path: str) -> bool:
    """Whether a file's first bytes are those of an image."""
    if not os.path.isfile(path):  # opening a pipe would wait for its writer
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:
        return False
    webp, bmp = start[:4] + start[8:12] == b"RIFFWEBP", start[:2] + start[6:10] == b"BM\0\0\0\0"
    return start.startswith(SIGNATURES) or start[4:12] in BOXES or webp or bmp
