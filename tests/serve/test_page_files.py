"""The page's files as they are sent: whole, from this service alone, under a policy that lets nothing else in; and in the wheel."""

import asyncio
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from l2d_ray.serve import problems
from l2d_ray.serve.page import add_page, page_files

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "l2d_ray" / "serve" / "page"
NAMES = sorted(path.name for path in FOLDER.iterdir())


@pytest.fixture(scope="module")
def api() -> FastAPI:
    api = FastAPI()
    problems.install(api)
    add_page(api)
    return api


def get(api: FastAPI, path: str, **headers: str) -> httpx.Response:
    async def exchange() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://service") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(exchange())


def test_every_file_is_sent_as_it_is(api: FastAPI):
    assert set(page_files()) == set(NAMES) > {"index.html", "app.js", "style.css"}
    for name in NAMES:
        assert get(api, f"/page/{name}").content == (FOLDER / name).read_bytes()
    assert get(api, "/").content == (FOLDER / "index.html").read_bytes()
    assert get(api, "/").headers["content-type"] == "text/html; charset=utf-8"
    assert get(api, "/page/app.js").headers["content-type"] == "text/javascript; charset=utf-8"


def test_what_a_browser_has_is_not_sent_again(api: FastAPI):
    first = get(api, "/page/app.js")
    again = get(api, "/page/app.js", **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert get(api, "/page/app.js", **{"If-None-Match": '"other"'}).status_code == 200
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/page/none.js", "/page/..%2Fpage.py", "/page/", "/page/a/b"])
def test_other_paths_are_not_found(api: FastAPI, path: str):
    response = get(api, path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/page/app.js"])
def test_the_policy_comes_with_every_file(api: FastAPI, path: str):
    headers = get(api, path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["frame-ancestors"] == "'none'"
    assert not {"unsafe-inline", "unsafe-eval", "*", "data:"} & set(re.findall(r"[\w*:-]+", headers["content-security-policy"]))
    assert headers["x-content-type-options"] == "nosniff"


def test_the_files_name_no_other_host_and_only_files_that_are_there():
    texts = {name: (FOLDER / name).read_text() for name in NAMES}
    addresses = {address for text in texts.values() for address in re.findall(r"https?://[^\s\"']+", text)}
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, never fetched
    imported = {name for text in texts.values() for name in re.findall(r"from \"\./([^\"]+)\"", text)}
    linked = set(re.findall(r"page/([\w.]+)", texts["index.html"]))
    assert len(imported) > 5
    assert imported | linked <= set(NAMES)
    assert imported | linked | {"index.html"} == set(NAMES)


def test_every_element_that_a_script_asks_for_is_in_the_page():
    index = (FOLDER / "index.html").read_text()
    asked = {name for path in FOLDER.glob("*.js") for name in re.findall(r"byId\(\"([\w-]+)\"\)", path.read_text())}
    assert len(asked) > 20
    assert asked <= set(re.findall(r"id=\"([\w-]+)\"", index))


@pytest.mark.slow
def test_the_wheel_has_the_page(tmp_path: Path):
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    shutil.copytree(ROOT / "l2d_ray", source / "l2d_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source]
    subprocess.run(command, check=True)
    (wheel,) = wheels.glob("*.whl")
    assert {f"l2d_ray/serve/page/{name}" for name in NAMES} <= set(zipfile.ZipFile(wheel).namelist())
