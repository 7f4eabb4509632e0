"""`advantageflow watch`: the report of a run that trains, for the browser of this machine and for no other page."""

import http.client
import threading
from contextlib import contextmanager

import pytest
from command_line import command_line
from test_report import browser as browser
from test_report import evaluation, make_run

from advantageflow.config import ConfigError, load_config
from advantageflow.reports.live import LivePage, Server
from advantageflow.run.directory import RunDirectory


@contextmanager
def serving(*folders):
    """A server of runs' pages, on any free port."""
    with Server(LivePage(folders), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, path="/", **headers):
    """The answer's code, headers and text."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    try:
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def next_row(folder):
    """The run does one more iteration."""
    directory = RunDirectory(folder)
    rows = directory.metrics()
    last = {name: value for name, value in rows[-1].items() if name not in ("evaluation", "difference")}
    directory.append_metrics({**last, "iteration": len(rows), "seconds/training": 60.0 * len(rows)})


@pytest.fixture
def training(tmp_path):
    return make_run(tmp_path / "training", finished=False)


def test_the_page_is_the_report_and_another_one_when_the_run_goes_on(training):
    with serving(training) as server:
        (code, headers, page), (_, _, state) = ask(server), ask(server, "/state")
        assert code == 200
        assert "for 4 iterations" in page
        assert state in page
        assert ask(server, "/state")[2] == state
        assert ask(server)[2] == page
        next_row(training)
        assert ask(server, "/state")[2] not in (state, "")
        assert "for 5 iterations" in ask(server)[2]
    assert headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_a_run_without_an_iteration_is_waited_for(tmp_path):
    RunDirectory.create(tmp_path / "new", load_config("scenes"))
    with serving(tmp_path / "new") as server:
        code, _, page = ask(server)
        assert code == 200
        assert "The first iteration is not done yet" in page
        assert ask(server, "/state")[2] in page


def test_nothing_but_the_page_is_served(training):
    with serving(training) as server:
        for path in ("/config.yaml", "/samples/", "/../config.yaml", "/?x", "/state/", "/%2e%2e/config.yaml"):
            assert ask(server, path)[0] == 404


def test_a_strangers_name_for_this_machine_is_turned_away(training):
    with serving(training) as server:
        host, port = server.server_address
        assert host == "127.0.0.1"
        for name in ("evil.example", f"evil.example:{port}", host, f"127.0.0.1.evil.example:{port}", ""):
            code, _, text = ask(server, Host=name)
            assert code == 403
            assert "trained the model" not in text
        assert ask(server, Host=f"localhost:{port}")[0] == 200


def test_what_cannot_be_watched_is_said(tmp_path, training):
    code, _, error = command_line("watch", tmp_path, "--no-browser")
    assert (code, error.count("\n")) == (2, 1)
    assert f"{tmp_path} holds no run" in error
    assert f"such as {training}" in error
    with serving(training) as server, pytest.raises(ConfigError, match="choose another --port"):
        Server(LivePage([training]), server.server_address[1])


def test_ctrl_c_ends_it(training, monkeypatch):
    def interrupted(self, poll_interval):
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    code, out, error = command_line("watch", training, "--no-browser")
    assert (code, error) == (0, "")
    assert "watching at http://127.0.0.1:" in out


def test_a_page_that_is_read_stays_where_its_reader_was(training, browser):
    with serving(training) as server:
        tab = browser.new_page(viewport={"width": 900, "height": 500})
        complaints = []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(server.address)
        slider = tab.locator(".through input")
        slider.fill("0")
        tab.get_by_text("Environment and cost").click()
        tab.locator("[data-axis=images]").first.click()
        tab.evaluate("scrollTo(0, 700)")
        directory = RunDirectory(training)
        next_row(training)
        directory.write_samples(5, evaluation(5))
        tab.evaluate("void look()")  # the page that would answer is loaded again
        tab.get_by_text("for 5 iterations").wait_for()
        tab.wait_for_function("scrollY > 0")
        assert tab.evaluate("scrollY") == 700
        assert tab.locator("details[open] > summary").all_inner_texts() == ["Environment and cost"]
        assert (slider.input_value(), slider.get_attribute("max")) == ("0", "3")
        assert tab.locator("[data-axis=images]").first.get_attribute("aria-pressed") == "true"
        assert complaints == []
        tab.locator(".picture:visible").first.click()
        next_row(training)
        tab.evaluate("look()")
        assert tab.locator("dialog").is_visible()  # a picture that is looked at stays
        tab.keyboard.press("Escape")
        tab.evaluate("void look()")  # the page that would answer is loaded again
        tab.get_by_text("for 6 iterations").wait_for()
    tab.evaluate("look()")
    tab.get_by_text("no longer watched").wait_for()
    tab.close()
