"""The page in a real browser over the real application: a whole visit by mouse and by keyboard, and what it does when things go wrong."""

import json
import math
import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Route

from tests.serve.browser import Visitor, chromium, visitor
from tests.serve.visited import app_over, listening

pytestmark = pytest.mark.slow
DECODERS = ("global", "local", "whitened", "paired")
HISTORY = ["item-01", "item-13", "item-25"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with listening(app_over(tmp_path_factory.mktemp("visited"))) as found:
        yield found


@pytest.fixture
def guest(browser: Browser, url: str) -> Iterator[Visitor]:
    """A visitor to whom nothing may happen that a console would tell."""
    with visitor(browser, url) as somebody:
        yield somebody
        assert somebody.foreign == []
        assert somebody.errors == []


def answered(url: str, history: list, **options) -> dict:
    response = httpx.post(f"{url}v1/recommendations", json={"history": history, "k": 12} | options)
    assert response.status_code == 200, response.text
    return response.json()


def answered_ids(url: str, history: list, **options) -> list[str]:
    return [item["item_id"] for item in answered(url, history, **options)["items"]]


def shown_history(url: str, guest: Visitor) -> list:
    """The history as the address has it, as a request says it."""
    written = guest.page.evaluate("new URLSearchParams(location.hash.slice(1)).get('history')")
    return [item_id or {"title": title} for item_id, title in json.loads(written)]


def test_a_visit_with_the_mouse(guest: Visitor, url: str):
    page = guest.page
    guest.arrive()
    assert "memory v" in page.inner_text("#served")
    guest.screenshot("start")
    guest.pick("silent riv", "The Silent River")
    before = {decoder: guest.listed(decoder) for decoder in DECODERS}
    assert before == {decoder: answered_ids(url, ["item-12"], decoder=decoder) for decoder in DECODERS}
    assert all(len(found) == 12 for found in before.values())

    page.locator(".column[data-decoder=whitened] [data-cell=add]").nth(2).click()
    guest.wait_for_answers()
    assert shown_history(url, guest) == ["item-12", before["whitened"][2]]
    page.locator("#map").click(position=nearest_dot(guest, "item-30"))
    guest.wait_for_answers()
    history = shown_history(url, guest)
    assert len(history) == len(guest.history()) == 3
    assert {decoder: guest.listed(decoder) for decoder in DECODERS} == {d: answered_ids(url, history, decoder=d) for d in DECODERS}
    assert guest.listed("whitened") != before["whitened"]
    assert page.locator(".change").count() > 0
    assert all(re.fullmatch(r"[\d.]+ ms", total) for total in page.locator(".total").all_text_contents())
    guest.screenshot("recommendations")


def nearest_dot(guest: Visitor, item_id: str) -> dict[str, float]:
    """Where on the canvas an item's point is."""
    points = httpx.get(f"{guest.url}v1/map").json()["points"]
    (mine,) = (point for point in points if point["item_id"] == item_id)
    reach = [max(abs(point[axis]) for point in points) for axis in "xy"]
    box = guest.page.locator("#map").bounding_box()
    unit = min((box["width"] / 2 - 14) / reach[0], (box["height"] / 2 - 14) / reach[1])
    return {"x": box["width"] / 2 + mine["x"] * unit, "y": box["height"] / 2 - mine["y"] * unit}


def test_why_shows_the_samples_that_speak_for_an_item(guest: Visitor, url: str):
    guest.arrive()
    guest.pick("golden", "The Golden Garden")
    item = answered(url, shown_history(url, guest), decoder="local", explain=True)["items"][0]
    assert item["reasons"]
    guest.page.locator(".column[data-decoder=local] [data-cell=why]").first.click()
    guest.page.wait_for_selector(".reasons")
    assert guest.page.inner_text("#why-heading") == f"Why {item['title']}"
    paths = guest.page.locator(".reasons .path").evaluate_all("paths => paths.map(p => [...p.children].map(li => li.textContent))")
    assert paths == [reason["history"] or ["a history that is no longer kept"] for reason in item["reasons"]]
    distances = [float(text.split()[-1]) for text in guest.page.locator(".distance").all_inner_texts()]
    assert distances == sorted(distances)
    guest.screenshot("why")


def test_why_names_the_items_of_the_history_where_pairs_raised_an_item(guest: Visitor, url: str):
    guest.arrive()
    guest.pick("golden", "The Golden Garden")
    guest.pick("silent riv", "The Silent River")
    items = answered(url, shown_history(url, guest), decoder="paired", explain=True)["items"]
    place = next(place for place, item in enumerate(items) if item["because"])
    guest.page.locator(".column[data-decoder=paired] [data-cell=why]").nth(place).click()
    guest.page.wait_for_selector(".causes")
    told = guest.page.locator(".causes li").evaluate_all("rows => rows.map(row => [...row.children].map(cell => cell.textContent))")
    assert told == [[f"{math.floor(100 * cause['share'] + 0.5)} %", cause["title"]] for cause in items[place]["because"]]
    guest.screenshot("because")


def test_settings_change_what_is_asked(guest: Visitor, url: str):
    page = guest.page
    guest.arrive()
    guest.pick("last", "The Last Winter")
    history = shown_history(url, guest)
    page.uncheck("#decoders input[value=local]")
    guest.wait_for_answers()
    assert page.locator(".column").count() == len(DECODERS) - 1
    page.fill("#k", "5")
    page.uncheck("#exclude")
    page.locator("#diversity").fill("0.5")
    guest.wait("document.querySelectorAll('.column[data-decoder=global] tr[data-item]').length === 5")
    guest.wait_for_answers()
    assert guest.listed("global") == answered_ids(url, history, decoder="global", k=5, exclude_history=False, diversity=0.5)


def test_a_visit_with_the_keyboard_alone(guest: Visitor):
    page = guest.page
    guest.arrive()
    guest.press("Tab")
    assert "Skip to the search" in page.evaluate("document.activeElement.textContent")
    guest.press("Enter")
    page.keyboard.type("red")
    page.wait_for_selector("#found li")
    assert page.get_attribute("#search", "aria-expanded") == "true"
    guest.press("ArrowDown")
    chosen = page.inner_text(f"#{page.get_attribute('#search', 'aria-activedescendant')} span")
    guest.press("Enter")
    guest.wait_for_answers()
    assert guest.history() == [chosen]
    page.keyboard.type("A Film Nobody Listed")
    page.wait_for_selector("#found li")
    guest.press("ArrowUp", "Enter")  # the last choice: as text
    guest.wait("document.querySelectorAll('#history li').length === 2")
    guest.wait_for_answers()

    until(guest, lambda: page.evaluate("document.activeElement.dataset.cell") == "add")
    guest.press("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight")  # third row, its why, then the third row of the next column
    row = page.evaluate("(e => [e.closest('.column').dataset.decoder, e.closest('tr').dataset.item])(document.activeElement)")
    assert row == ["local", guest.listed("local")[2]]
    guest.press("ArrowRight", "Enter")
    page.wait_for_selector(".reasons, #why .note")
    assert page.evaluate("document.activeElement.id") == "why-heading"
    guest.press("Escape", "ArrowLeft", "Enter")
    guest.wait("document.querySelectorAll('#history li').length === 3")
    guest.wait_for_answers()
    assert page.evaluate("document.activeElement.dataset.cell") == "add"  # the focus stays in the list

    until(guest, lambda: page.evaluate("document.activeElement.id") == "map")
    guest.press("ArrowRight", "ArrowUp", "+")
    page.wait_for_selector("#map-label:not([hidden])")
    pointed, before = page.inner_text("#map-label strong"), guest.history()
    guest.press("Enter")
    guest.wait("document.querySelectorAll('#history li').length === 4")
    assert guest.history() == [*before, pointed]
    length = len(guest.history())
    page.focus("#search")
    until(guest, lambda: guest.focused() == f"Remove {guest.history()[0]}")
    guest.press("Enter")
    guest.wait(f"document.querySelectorAll('#history li').length === {length - 1}")
    assert guest.focused() == f"Remove {guest.history()[0]}"
    guest.screenshot("keyboard")


def until(guest: Visitor, is_there, *, steps: int = 60) -> None:
    """Tab on until the focus is where it should be."""
    for _ in range(steps):
        guest.press("Tab")
        if is_there():
            return
    raise AssertionError(f"Not reached in {steps} steps; the focus is on {guest.focused()!r}.")


def test_the_state_of_shards_and_versions_and_titles_on_the_map(guest: Visitor, url: str):
    status = httpx.get(f"{url}v1/status").json()
    guest.arrive()
    assert guest.page.locator(".shards tbody tr").count() == len(status["shards"]) == 2
    assert guest.page.locator(".versions [aria-current]").inner_text() == f"v{status['memory_version']}"
    guest.page.locator("#map").hover(position=nearest_dot(guest, "item-07"))
    guest.page.wait_for_selector("#map-label:not([hidden])")
    titles = {point["title"] for point in httpx.get(f"{url}v1/map").json()["points"]}
    assert guest.page.inner_text("#map-label strong") in titles


def test_the_address_holds_the_history_and_what_is_no_history_is_ignored(guest: Visitor):
    guest.arrive()
    guest.pick("broken", "The Broken Mirror")
    address = guest.page.url
    guest.page.reload()
    guest.wait_for_answers()
    assert [title[:17] for title in guest.history()] == ["The Broken Mirror"]
    for fragment in ("#history=[[1,2]]", "#history=nonsense", "#history={}"):
        guest.page.goto("about:blank")
        guest.foreign.clear()
        guest.arrive(fragment)
        assert guest.history() == []
    guest.page.goto(address)
    guest.wait_for_answers()
    assert len(guest.history()) == 1


def test_a_title_is_never_more_than_text(guest: Visitor):
    guest.arrive()
    markup = "<img src=x onerror=alert(1)>"
    guest.page.fill("#search", markup)
    guest.page.locator("#found li").last.click()
    guest.wait_for_answers()
    assert guest.history() == [markup]
    assert guest.page.locator("#history img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_against_the_page(browser: Browser, url: str, scheme: str):
    with visitor(browser, url, color_scheme=scheme, reduced_motion="reduce") as somebody:
        somebody.arrive()
        assert somebody.violations() == []
        somebody.pick("lost", "The Lost Signal")
        somebody.page.locator("[data-cell=why]").first.click()
        somebody.page.wait_for_selector(".reasons, #why .note")
        somebody.page.fill("#search", "the")
        somebody.page.wait_for_selector("#found li")
        assert somebody.violations() == []
        somebody.screenshot(f"{scheme}-scheme")


def test_a_narrow_window_needs_no_sideways_scrolling(browser: Browser, url: str):
    with visitor(browser, url, viewport={"width": 320, "height": 800}) as somebody:  # WCAG 2.2, 1.4.10: 1280 pixels at 400 %
        somebody.arrive()
        somebody.pick("lost", "The Lost Signal")
        assert somebody.page.evaluate("document.documentElement.scrollWidth") <= 320
        somebody.screenshot("narrow")


def test_a_key_is_asked_for_where_the_service_wants_one_and_stays_in_the_tab(browser: Browser, url: str):
    with visitor(browser, url) as somebody:
        somebody.page.route("**/v1/**", lambda route: answer_with_key(route, "l2d_right"))
        somebody.page.goto(url)
        somebody.page.fill("#key", "l2d_wrong")
        somebody.press("Enter")
        somebody.wait("document.getElementById('key-text').textContent.includes('l2d_wrong')")
        somebody.page.fill("#key", "l2d_right")
        somebody.press("Enter")
        somebody.wait("document.getElementById('map-note').textContent !== ''")
        somebody.pick("lost", "The Lost Signal")
        kept = somebody.page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]")
        assert kept == [1, 0, ""]
        assert "l2d_" not in somebody.page.url
        assert somebody.page.is_visible("#key-button")


def test_who_closes_the_dialog_is_not_asked_again_unasked(browser: Browser, url: str):
    with visitor(browser, url) as somebody:
        page = somebody.page
        page.route("**/v1/**", lambda route: answer_with_key(route, "l2d_right"))
        page.goto(url)
        page.get_by_role("button", name="Cancel").click()
        page.locator("#served [role=alert]").wait_for()
        page.fill("#search", "lost")
        somebody.wait("document.getElementById('live').textContent.includes('is not valid')")
        assert not page.is_visible("#key-dialog")
        page.click("#key-button")
        page.fill("#key", "l2d_right")
        somebody.press("Enter")
        somebody.wait("document.getElementById('map-note').textContent !== ''")


def answer_with_key(route: Route, key: str) -> None:
    sent = route.request.headers.get("authorization", "")
    if sent == f"Bearer {key}":
        route.continue_()
    else:
        problem = {"type": "about:blank", "title": "Unauthorized", "status": 401, "detail": f"The key {sent!r} is not valid.", "errors": []}
        route.fulfill(status=401, content_type="application/problem+json", body=json.dumps(problem))


def test_problems_and_partial_answers_are_told_where_they_are(browser: Browser, url: str):
    with visitor(browser, url) as somebody:
        somebody.arrive()
        is_busy = [True]
        somebody.page.route("**/v1/recommendations", lambda route: disturb(route, is_busy))
        somebody.page.fill("#search", "silent")
        somebody.page.locator("#found li").first.click()
        column = somebody.page.locator(".column[data-decoder=global]")
        column.locator("[role=alert]").wait_for()
        assert column.inner_text().count("Too much to do. Again in 3 s.") == 1
        somebody.page.locator(".column[data-decoder=local] .partial", has_text="1 of 2 shards answered").wait_for()
        somebody.screenshot("problems")
        is_busy.clear()
        column.get_by_role("button", name="Try again").click()
        column.locator("tr[data-item]").first.wait_for()
        assert column.locator("[role=alert]").count() == 0


def disturb(route: Route, is_busy: list[bool]) -> None:
    """The global decoder is overloaded as long as it is, the local one lacks a shard."""
    decoder = route.request.post_data_json["decoder"]
    if decoder == "global" and is_busy:
        problem = {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "Too much to do.", "errors": []}
        route.fulfill(status=503, content_type="application/problem+json", headers={"Retry-After": "3"}, body=json.dumps(problem))
    elif decoder == "local":
        route.fulfill(json=route.fetch().json() | {"complete": {"shards_ok": 1, "shards_total": 2}})
    else:
        route.continue_()
