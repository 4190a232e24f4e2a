"""A plugin like v1's chat: it keeps counts, last messages and receipts by SQL.

It runs unchanged on the published Python runtime (PyPI `skygear` 1.7.1).
"""
import skygear
from skygear.container import SkygearContainer
from skygear.options import options
from skygear.utils import db as database

TYPES = {
    "conversation": [("title", "string"), ("last_message", "ref(message)"), ("deleted", "boolean")],
    "message": [("body", "string"), ("conversation", "ref(conversation)"), ("seq", "sequence"),
                ("message_status", "string"), ("deleted", "boolean")],
    "user_conversation": [("user", "ref(user)"), ("conversation", "ref(conversation)"),
                          ("unread_count", "number"), ("last_read_message", "ref(message)")],
    "receipt": [("user", "ref(user)"), ("message", "ref(message)"), ("read_at", "datetime"),
                ("delivered_at", "datetime")],
    "user_channel": [("name", "string")],
}


def call(action, payload, **more):
    return SkygearContainer(api_key=options.masterkey).send_action(action, payload, **more)


def create(types):
    record_types = {name: {"fields": [{"name": field, "type": kind} for field, kind in fields]}
                    for name, fields in types.items()}
    return call("schema:create", {"record_types": record_types}, plugin_request=True)


@skygear.event("before-plugins-ready")
def prepare(config):
    """Creates all types before their fields, because types can refer to each other."""
    create({"user": [], "message": [], "conversation": []})
    create(TYPES)
    with database.conn() as conn:
        found = conn.execute(
            "SELECT count(*) FROM information_schema.constraint_column_usage "
            "WHERE table_schema = 'app_myapp' AND table_name = 'user_channel' "
            "AND constraint_name = 'user_channel_database_id_key'").scalar()
        if found:
            return
        conn.execute(
            "DELETE FROM app_myapp.user_channel WHERE _id IN (SELECT _id FROM (SELECT _id, "
            "row_number() OVER (PARTITION BY _database_id ORDER BY _created_at) AS n "
            "FROM app_myapp.user_channel) AS ranked WHERE n > 1)")
        conn.execute(
            "ALTER TABLE app_myapp.user_channel ADD CONSTRAINT user_channel_database_id_key "
            "UNIQUE (_database_id)")


@skygear.after_save("message", async_=False)
def count_unread(record, original_record, db):
    if original_record is not None:
        return
    conversation = record["conversation"].recordID.key
    db.execute(
        'UPDATE app_myapp.user_conversation SET unread_count = unread_count + 1, '
        '_updated_at = CURRENT_TIMESTAMP WHERE conversation = %s AND "user" <> %s',
        (conversation, record.owner_id))
    db.execute(
        'UPDATE app_myapp.user_conversation SET _updated_at = NOW() '
        'WHERE conversation = %s AND "user" = %s', (conversation, record.owner_id))
    db.execute(
        "UPDATE app_myapp.conversation SET last_message = %s, _updated_at = NOW() WHERE _id = %s",
        (record.id.key, conversation))


@skygear.op("sql:read")
def read(user, message):
    """Marks a message as read; returns its status, and how many messages the user has not read."""
    with database.conn() as conn:
        conn.execute(
            'UPDATE app_myapp.receipt SET read_at = NOW(), delivered_at = NOW() '
            'WHERE "user" = %s AND message = %s', (user, message))
        conn.execute(
            'UPDATE app_myapp.user_conversation AS u SET last_read_message = m._id, '
            'unread_count = GREATEST(u.unread_count - 1, 0) FROM app_myapp.message AS m '
            'WHERE m._id = %s AND u.conversation = m.conversation AND u."user" = %s',
            (message, user))
        status = conn.execute(
            "UPDATE app_myapp.message SET _updated_at = NOW(), message_status = CASE WHEN "
            "(SELECT count(*) FROM app_myapp.receipt WHERE message = %s AND read_at IS NOT NULL) > 0 "
            "THEN 'some_read' ELSE 'delivered' END WHERE _id = %s RETURNING message_status",
            (message, message)).scalar()
        unread = conn.execute(
            'SELECT sum(unread_count) FROM app_myapp.user_conversation WHERE "user" = %s',
            (user,)).scalar()
    # After the transaction, the API returns the same.
    found = call("record:query", {
        "record_type": "message",
        "predicate": ["eq", {"$type": "keypath", "$val": "_id"}, message]})
    return {"status": status, "unread": unread, "told": found["result"][0]["message_status"]}


@skygear.op("sql:withdraw")
def withdraw(message):
    """Withdraws a message: the previous one becomes the last again."""
    with database.conn() as conn:
        conversation, seq = conn.execute(
            "UPDATE app_myapp.message SET deleted = true WHERE _id = %s RETURNING conversation, seq",
            (message,)).fetchone()
        before = conn.execute(
            "SELECT _id FROM app_myapp.message WHERE conversation = %s AND seq < %s "
            "AND deleted IS NOT TRUE ORDER BY seq DESC LIMIT 1", (conversation, seq)).scalar()
        conn.execute("UPDATE app_myapp.conversation SET last_message = %s WHERE _id = %s",
                     (before, conversation))
    return {"last": before}
