"""The helpers that drive a real browser."""

from playwright.sync_api import sync_playwright

from benchmarks.helpers.browser import browser_of, go
from tests.playground.browser import needs_browser

PAGE = """<button role="tab">Chat</button><button aria-label="More tabs">...</button>
<div class="overflow-dropdown" hidden><button>Runs</button></div>
<script>
let moves = 0, opened = "";
const menu = document.querySelector("div"), runs = menu.firstChild;
document.querySelector("[aria-label]").onclick = () => { menu.hidden = !menu.hidden; };
// A page that is still being laid out closes its menu under the pointer, the first three times.
runs.onmouseenter = () => { if (moves++ < 3) menu.hidden = true; };
runs.onclick = () => { opened = "Runs"; };
</script>"""


@needs_browser
def test_a_tab_is_opened_though_its_menu_closes_under_the_click():
    with sync_playwright() as playwright:
        browser = browser_of(playwright)
        page = browser.new_page()
        page.set_content(PAGE)
        go(page, "Runs")
        assert page.evaluate("[opened, moves > 3]") == ["Runs", True]
        browser.close()
