"""A plugin whose registration the log is told of."""

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
