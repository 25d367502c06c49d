"""What tests of the pages read out of HTML, with the standard library's parser: forms, texts, and what a page is made of."""

from html.parser import HTMLParser

import httpx

__all__ = ["Page", "read", "sign_in"]


class Page(HTMLParser):
    """tags: each with its attributes. text: what a person reads, in one line. fields: of the page's inputs."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.fields: dict[str, str] = {}
        self._quiet = 0
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = {name: value or "" for name, value in attrs}
        self.tags.append((tag, own))
        if tag == "input" and "name" in own:
            self.fields[own["name"]] = own.get("value", "")
        if tag in ("style", "script", "title"):
            self._quiet += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "script", "title"):
            self._quiet -= 1

    def handle_data(self, data: str) -> None:
        if not self._quiet:
            self.text += f" {data}"

    def all(self, tag: str) -> list[dict[str, str]]:
        return [own for name, own in self.tags if name == tag]


def read(answer: httpx.Response, status: int = 200) -> Page:
    assert answer.status_code == status, answer.text[:500]
    return Page(answer.text)


def sign_in(client: httpx.Client, token: str, *, lang: str = "en", next_: str = "") -> httpx.Response:
    form = read(client.get("/sign-in", params={"lang": lang, "next": next_})).fields
    return client.post("/sign-in", data={**form, "token": token})
