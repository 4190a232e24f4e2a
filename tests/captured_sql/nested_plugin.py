"""A plugin that asks the server something while its own transaction holds a row.

v1's Python runtime opens a transaction around every hook, so this is what hooks usually do. It runs
unchanged on the published runtime (PyPI `skygear` 1.7.1).
"""
import skygear
from skygear.container import SkygearContainer
from skygear.options import options

PAYLOADS = {
    "record:query": [{"record_type": "counter"}, {"record_type": "other"}],
    "record:fetch": [{"ids": ["counter/c"]}, {"ids": ["other/o"]}],
    "record:save": [{"records": [{"_id": "other/o", "text": "x"}]}],
    "record:delete": [{"ids": ["other/gone"]}],
}


def call(action, payload, **more):
    container = SkygearContainer(api_key=options.masterkey)
    answer = container.send_action(action, dict(payload, database_id="_public"), **more)
    if "error" in answer:
        raise Exception(str(answer["error"]))
    return answer


@skygear.event("before-plugins-ready")
def prepare(config):
    text = {"fields": [{"name": "text", "type": "string"}]}
    number = {"fields": [{"name": "n", "type": "number"}]}
    types = {"note": text, "other": text, "counter": number}
    call("schema:create", {"record_types": types}, plugin_request=True)


@skygear.after_save("note", async_=False)
def count(record, original_record, db):
    db.execute("UPDATE app_myapp.counter SET n = n + 1 WHERE _id = 'c'")
    for payload in PAYLOADS[record["text"]]:
        call(record["text"], payload)
