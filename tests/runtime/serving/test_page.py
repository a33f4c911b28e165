"""The page in a real browser: drop a picture, ask, drag the budget, see what survives."""

from __future__ import annotations

import shutil

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
# The second line keeps the browser from calling home: the test shows a page of this machine only.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture
def page(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if BROWSER is None:
        pytest.skip("needs chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser.new_page(viewport={"width": 1280, "height": 860})
        browser.close()


def test_the_page_runs_its_own_script_only(server):
    answer = server.get("/")
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.slow
def test_asking_and_dragging_the_budget(server, page, alone, tmp_path, picture_file):
    from playwright.sync_api import expect

    problems = []
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(server.url)
    page.set_input_files("#file", picture_file)
    page.fill("#question", "what is it")
    page.click("#ask")
    expect(page.locator("#times")).to_contain_text("6 of 16 visual tokens", timeout=20_000)
    assert page.locator("#stages figure").count() == 3
    shown = page.locator("#answer").evaluate("each => each.textContent")
    assert shown == alone().text
    captions = page.locator("#stages figcaption").all_inner_texts()
    assert "9 kept, 1 merged" in captions[1]
    # As many dark patches as the stage dropped, on a picture without dark parts.
    dark = """canvas => {
      const pen = canvas.getContext("2d"), step = canvas.width / 4;
      let count = 0;
      for (let n = 0; n < 16; n++) {
        const x = (n % 4 + .5) * step, y = (Math.floor(n / 4) + .5) * step;
        count += pen.getImageData(x, y, 1, 1).data[0] < 60;
      }
      return count;
    }"""
    assert page.locator("canvas").nth(1).evaluate(dark) == 16 - 9
    page.locator("#budget").fill("0")  # all tokens; asks by itself
    expect(page.locator("#times")).to_contain_text("16 of 16 visual tokens", timeout=20_000)
    assert page.locator("#stages figure").count() == 1
    assert page.locator("#answer").evaluate("e => e.textContent") == alone(method="none").text
    assert not problems
