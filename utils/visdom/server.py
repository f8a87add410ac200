"""Start visdom on this machine and show every run in it: python -m utils.visdom.server [--port=8097]

`python -m visdom.server` first downloads its page from CDNs, fails without internet, hangs where packets are dropped,
and then listens on every interface. This one downloads the page from npm once, and listens only on loopback.
"""

import argparse
import asyncio
import errno
import logging
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from utils.visdom.follow import EVERY, NEWEST, Follower, local
from utils.visdom.screen import Unreachable

GLYPHS = "glyphicons-halflings-regular"
# npm package: {file in it: file in visdom's static folder}, as in visdom/server/build.py
ASSETS: dict[str, dict[str, str]] = {
    "jquery@3.1.1": {"dist/jquery.min.js": "js/jquery.min.js"},
    "bootstrap@3.3.7": {
        "dist/js/bootstrap.min.js": "js/bootstrap.min.js",
        "dist/css/bootstrap.min.css": "css/bootstrap.min.css",
        **{f"dist/fonts/{GLYPHS}.{kind}": f"fonts/{GLYPHS}.{kind}" for kind in ("eot", "woff2", "woff", "ttf")},
        f"dist/fonts/{GLYPHS}.svg": f"fonts/{GLYPHS}.svg#glyphicons_halflingsregular",
    },
    "react@16.2.0": {"umd/react.production.min.js": "js/react-react.min.js"},
    "react-dom@16.2.0": {"umd/react-dom.production.min.js": "js/react-dom.min.js"},
    "react-modal@3.1.10": {"dist/react-modal.min.js": "js/react-modal.min.js"},
    "plotly.js-dist-min@2.11.1": {"plotly.min.js": "js/plotly-plotly.min.js"},
    "sjcl@1.0.7": {"sjcl.js": "js/sjcl.js"},
    "layout-bin-packer@1.4.0": {
        "dist/layout-bin-packer.js": "js/layout_bin_packer.js",
        "dist/layout-bin-packer.js.map": "js/layout-bin-packer.js.map",
    },
    "d3@3.5.17": {"d3.min.js": "js/d3.v3.min.js"},
    "d3-selection-multi@1.0.1": {"build/d3-selection-multi.js": "js/d3-selection-multi.v1.js"},
    "save-svg-as-png@1.4.17": {"lib/saveSvgAsPng.js": "js/saveSvgAsPng.js"},
    "react-resizable@1.4.6": {"css/styles.css": "css/react-resizable-styles.css"},
    "react-grid-layout@0.16.3": {"css/styles.css": "css/react-grid-layout-styles.css"},
    "classnames@2.2.5": {"index.js": "fonts/classnames"},  # build.py puts it there
    "mathjax@2.7.5": {
        file: f"js/mathjax/2.7.5/{file}"
        for file in (
            "config/Safe.js",
            "config/TeX-AMS-MML_HTMLorMML.js",
            "extensions/Safe.js",
            "jax/output/SVG/fonts/TeX/fontdata.js",
            "jax/output/SVG/jax.js",
            "jax/output/SVG/fonts/TeX/Size1/Regular/Main.js",
            "jax/output/SVG/config.js",
            "MathJax.js",
        )
    },
}


def lay_assets(static: Path) -> None:
    """Download the missing parts of visdom's page into its folder `static`. A failure prints one line."""
    missing = {
        package: files
        for package, files in ASSETS.items()
        if not all((static / target).exists() for target in files.values())
    }
    if not missing:
        return
    print(f"visdom: downloading {len(missing)} parts of its page from npm, once", flush=True)
    try:
        with tempfile.TemporaryDirectory(dir=static) as folder:
            part = Path(folder, "part")
            command = ["npm", "pack", "--silent", "--fetch-retries=1", "--fetch-timeout=30000", *missing]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
            for package, files in missing.items():
                with tarfile.open(Path(folder, package.replace("@", "-") + ".tgz")) as archive:
                    for source, target in files.items():
                        part.write_bytes(archive.extractfile(f"package/{source}").read())  # type: ignore[union-attr]
                        (static / target).parent.mkdir(parents=True, exist_ok=True)
                        part.replace(static / target)  # all of it or nothing: it is not downloaded again
    except (OSError, KeyError, tarfile.TarError, subprocess.SubprocessError) as error:
        print(f"visdom: its page will lack parts, because npm failed ({type(error).__name__}: {error})")


def follow(checkpoints: str, port: int) -> None:
    """Show the runs below a folder for as long as this process lives."""
    with suppress(Unreachable):
        local(NEWEST, port).connect()  # makes the environment: without it, its page would show another one
    follower = Follower(checkpoints, port)
    follower.look()
    url = f"http://localhost:{port}/env/{NEWEST}"
    print(f"visdom: {url} shows the newest run in {checkpoints}; each has its own environment, too", flush=True)
    while True:
        time.sleep(EVERY)
        follower.look()


async def serve(sockets: list[socket.socket], port: int, env_path: str | None, checkpoints: str) -> None:
    """Serve on the sockets, which listen on `port`, until cancelled."""
    from tornado.httpserver import HTTPServer
    from visdom.server import app
    from visdom.server.defaults import DEFAULT_ENV_PATH

    for name in ("tornado.access", "tornado.general"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the page asks for a style.css that visdom does not have
    app.tornado_settings["autoreload"] = False  # visdom sets debug: an edited .py file would restart the server
    application = app.Application(port=port, env_path=env_path or DEFAULT_ENV_PATH)
    HTTPServer(application, max_buffer_size=1024**3).add_sockets(sockets)
    threading.Thread(target=follow, args=(checkpoints, port), daemon=True).start()
    await asyncio.Event().wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve, or show the runs once in a server of this user that runs already. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8097)
    parser.add_argument("--checkpoints", default="checkpoints", help="the folder of the runs to show")
    parser.add_argument("--env_path", default=None, help="where visdom keeps saved envs (~/.visdom)")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as on Ctrl-C
    try:
        with suppress(Unreachable):
            local(NEWEST, args.port).connect()
            Follower(args.checkpoints, args.port, newest=False).look()
            print(f"visdom: the server on port {args.port} shows the runs in {args.checkpoints} as they are now")
            return 0

        import visdom
        from tornado.netutil import bind_sockets

        sockets = bind_sockets(args.port, "127.0.0.1")
        lay_assets(Path(visdom.__file__).parent / "static")
        asyncio.run(serve(sockets, args.port, args.env_path, args.checkpoints))
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        problem = f"cannot listen on port {args.port} ({error})"
        if error.errno == errno.EADDRINUSE:
            problem = f"port {args.port} is taken by something else; choose another with --port (and --vis-port)"
        print(f"visdom: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
