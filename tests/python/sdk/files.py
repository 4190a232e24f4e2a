"""Files, and the file URLs that the SDK signs itself."""

import requests

from skygear.asset import get_signer
from skygear.models import Asset
from skygear.options import parse_args
from skygear.predicate import Predicate
from skygear.query import Query

from harness import check, result
from world import API_KEY, ENDPOINT, person, record, unique

# The SDK's own programs do the same; it reads the secret from the environment.
parse_args()


def upload(container, name, content):
    """Uploads a file as the SDKs do: asks for the address, then posts the file there."""
    size = len(content)
    put = {"filename": name, "content-type": "text/plain", "content-size": size}
    answer = result(container.send_action("asset:put", put))
    request = answer["post-request"]
    uploaded = requests.post(
        ENDPOINT.rstrip("/") + request["action"],
        headers={"X-Skygear-API-Key": API_KEY},
        data=request.get("extra-fields", {}),
        files={"file": (name, content, "text/plain")},
        timeout=20,
    )
    assert uploaded.status_code == 200, uploaded.text
    return Asset(answer["asset"]["$name"], answer["asset"]["$content_type"])


@check("files: a record keeps its file, and the SDK's own address for it is good")
def _():
    container, _ = person("ada")
    asset = upload(container, "plan & ü.txt", b"of a python")
    note = record("py_filed", {"file": asset})
    result(container.public_database.save(note))
    query = Query("py_filed", Predicate(_id__eq=note.id.key))
    (read,) = container.public_database.query(query)
    assert read["file"] == asset
    answer = requests.get(get_signer().sign(asset.name), timeout=20)
    assert (answer.status_code, answer.content) == (200, b"of a python")
    assert answer.headers["Content-Type"].startswith("text/plain")


@check("files: a query signs attachments anew")
def _():
    container, _ = person("ben")
    mark = unique("mark")
    asset = upload(container, "a.txt", b"attached")
    result(container.public_database.save(record("py_mail", {"mark": mark, "attachment": asset})))
    (mail,) = container.public_database.query(Query("py_mail", Predicate(mark__eq=mark)))
    answer = requests.get(mail["attachment"]["$url"], timeout=20)
    assert (answer.status_code, answer.content) == (200, b"attached")


@check("files: an address with another signature is refused")
def _():
    container, _ = person("cy")
    asset = upload(container, "b.txt", b"secret")
    address = get_signer().sign("another.txt").replace("another.txt", asset.name)
    answer = requests.get(address, timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, 106)
