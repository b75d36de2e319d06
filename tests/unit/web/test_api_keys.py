"""API keys let their owners in, and nobody else."""

import httpx
import pytest

from perdure import Actor, ApiKeys, App, Caller, DefinitionError, expose
from perdure.testing import async_test
from perdure.web.openapi import Docs, openapi_of


class Post(Actor):
    @expose
    async def whoami(self) -> str:
        assert self.caller is not None
        return f"{self.caller.id} {self.caller.claims}"


@async_test
async def test_who_has_a_key_is_let_in_and_nobody_else() -> None:
    (old, old_hash), (new, new_hash), (admin, admin_hash) = (ApiKeys.create() for _ in range(3))
    keys = ApiKeys({old_hash: "robot", new_hash: "robot", admin_hash: Caller("root", {"all": 1})})
    app = App(Post, identify=keys, store="memory:")
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with app, httpx.AsyncClient(transport=transport, base_url="http://test") as http:

        async def ask(authorization: str) -> httpx.Response:
            headers = {"authorization": authorization}
            return await http.post("/post/a/whoami", headers=headers)

        for key in (old, new):
            assert (await ask(f"Bearer {key}")).json() == "robot {}"
        assert (await ask(f"bearer  {admin}")).json() == "root {'all': 1}"
        for refused in (f"Basic {old}", old, f"Bearer {old}x", f"Bearer {old_hash}", "Bearer ", ""):
            assert (await ask(refused)).status_code == 401, refused
        assert (await http.post("/post/a/whoami")).status_code == 401


def test_keys_are_random_and_the_hash_is_of_the_key() -> None:
    (one, one_hash), (other, _) = ApiKeys.create(), ApiKeys.create()
    assert one != other
    assert len(one) > 40
    assert one_hash == ApiKeys.hash_of(one)


@pytest.mark.parametrize("text", ["", "key_secret-secret", "abcd", "zz" * 32, "ab" * 33])
def test_a_key_in_place_of_its_hash_is_refused_and_not_told(text: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        ApiKeys({text: "robot"})
    assert "secret-secret" not in str(refused.value)


def test_the_document_says_how_to_send_a_key() -> None:
    app = App(Post, identify=ApiKeys({}), store="memory:")
    document = openapi_of(app.operations(), Docs(), app.identify)
    schemes = document["components"]["securitySchemes"]
    assert schemes == {"identify": {"type": "http", "scheme": "bearer"}}
