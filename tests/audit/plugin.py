"""A plugin whose registration is written to the log."""

import skytrail


@skytrail.op("noted:hello")
def hello():
    return "hello"


@skytrail.before_save("note")
def trim(record, original):
    record["text"] = str(record.get("text", "")).strip()
    return record


if __name__ == "__main__":
    skytrail.run()
