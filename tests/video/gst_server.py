"""A real RTSP server, run by the system's Python (which has GStreamer), on the loopback only: pictures that loop, and a place to push to.

Usage: gst_server.py PORT FPS LOGIN NAME=FILE...
PORT 0 takes a free one; LOGIN is USER:PASSWORD (digest) or empty. FILE holds H.264 access units, each after its length in four bytes; one
that ends with .h264 is written instead, with what a client records to NAME.
The port is printed once the server answers.
"""

import sys
from itertools import count

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

LAUNCH = (
    "( appsrc name=units format=time caps=video/x-h264,stream-format=byte-stream,alignment=au,framerate={fps}/1 "
    "! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)
RECORD = (
    "( rtph264depay name=depay0 ! h264parse ! video/x-h264,stream-format=byte-stream,alignment=au "
    "! filesink location={file} buffer-mode=unbuffered sync=false async=false )"
)


def main(port: str, fps: str, login: str, *mounts: str) -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    if login:
        server.set_auth(digest(*login.split(":")))
    for mount in mounts:
        name, file = mount.split("=")
        if file.endswith(".h264"):
            factory = GstRtspServer.RTSPMediaFactory(launch=RECORD.format(file=file), shared=False)
            factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
        else:
            factory = GstRtspServer.RTSPMediaFactory(launch=LAUNCH.format(fps=fps), shared=True)
            factory.connect("media-configure", feed, access_units(file), Gst.SECOND // int(fps))
        if login:
            role = Gst.Structure.new_empty("viewer")
            role.set_value("media.factory.access", True)
            role.set_value("media.factory.construct", True)
            factory.add_role_from_structure(role)
        server.get_mount_points().add_factory(f"/{name}", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


def digest(user: str, password: str) -> GstRtspServer.RTSPAuth:
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_digest(user, password, token)
    return auth


def access_units(file: str) -> list[bytes]:
    with open(file, "rb") as source:
        units = []
        while length := source.read(4):
            units.append(source.read(int.from_bytes(length, "big")))
    return units


def feed(_factory: object, media: GstRtspServer.RTSPMedia, units: list[bytes], duration: int) -> None:
    numbers = count()

    def push(source: Gst.Element, _length: int) -> None:
        number = next(numbers)
        buffer = Gst.Buffer.new_wrapped(units[number % len(units)])
        buffer.pts = buffer.dts = number * duration
        buffer.duration = duration
        source.emit("push-buffer", buffer)

    media.get_element().get_by_name_recurse_up("units").connect("need-data", push)


main(*sys.argv[1:])
