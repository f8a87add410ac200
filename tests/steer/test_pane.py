"""The window `control` in visdom: what is typed there reaches a run that is being trained."""

import json
import shutil

import websocket
from conftest import FAST, NO_SERVER
from conftest import server as processes
from runs import events
from visdom_helper import Server, browser, devtools, wait_for

from utils.steer.pane import BUTTONS, FIELDS, WINDOW


def click(button, url, folder):
    """Click on a button of the pane in headless Chromium."""
    script = f"""[...document.querySelectorAll('.table-properties button')].filter(
        one => one.textContent.trim() == '{button}' && document.body.textContent.includes('online')
    ).map(one => one.click()).length"""
    with devtools(url, folder) as evaluate:
        wait_for(lambda: evaluate(script))


def test_a_value_typed_into_the_pane_changes_the_rate_and_a_bad_one_is_answered_there(pictures, tmp_path):
    server = Server(tmp_path)
    try:
        options = [option for option in FAST if option != NO_SERVER]
        options += [f"--train-data-root={pictures}", f"--vis-port={server.port}", "--max-epoch=50", "--lr=0.001"]
        processes().start("train", *options, "--keep-every=0", cwd=tmp_path)
        run = wait_for(lambda: [path.parent for path in tmp_path.glob("checkpoints/*/events.jsonl")])[0]
        page = websocket.create_connection(f"ws://127.0.0.1:{server.port}/socket", http_proxy_host=None)

        def answer():
            return server.windows(run.name)[WINDOW]["content"][-1]["value"]

        def enter(name, value, env=run.name):
            act = {"target": WINDOW, "eid": env, "event_type": "PropertyUpdate", "pane_data": False}
            act |= {"propertyId": (FIELDS + BUTTONS).index(name), "value": value}
            page.send(json.dumps({"cmd": "forward_to_vis", "data": act}))

        wait_for(lambda: "training: epoch" in answer())

        def refused():
            enter("lr", "fast")  # again, until the run's own socket is open
            return "--lr cannot be 'fast'" in answer()

        wait_for(refused)
        enter("stop", "stop", env="default")  # of another run: not heard here
        enter("lr", "0.0005")
        wait_for(lambda: "learning rate 0.001 -> 0.0005" in answer())
        enter("freeze", "nothing")
        wait_for(lambda: "refused: no weight's name begins with nothing" in answer())
        if browser() and shutil.which("npm"):  # of npm's packages the page is made
            click("stop", f"http://127.0.0.1:{server.port}/env/{run.name}", tmp_path)
        else:
            enter("stop", "stop")
        assert processes().wait() == 130
        assert WINDOW not in server.windows(run.name)
        made = [event["command"] for event in events(run) if event["kind"] == "control"]
        assert made == [{"lr": 0.0005}] and "visdom's pane: after step" in (tmp_path / "output").read_text()
        page.close()
    finally:
        server.kill()
