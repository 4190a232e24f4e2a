"""The server's address, and containers that use it."""

import os
import uuid

from skygear.container import SkygearContainer
from skygear.models import Record, RecordID
from skygear.transmitter.http import HttpTransport

ENDPOINT = os.environ["SKYGEAR_ENDPOINT"]
API_KEY = os.environ["API_KEY"]
MASTER_KEY = os.environ["MASTER_KEY"]

SkygearContainer.set_default_endpoint(ENDPOINT)
SkygearContainer.set_default_apikey(API_KEY)
# The address is for plugins that listen; this program only sends.
SkygearContainer.set_default_transport(HttpTransport("127.0.0.1:0"))


def unique(name):
    return f"{name}-{uuid.uuid4().hex[:8]}"


def administrator(user_id=None):
    """Returns a container with the master key, which can act for a user."""
    return SkygearContainer(api_key=MASTER_KEY, user_id=user_id)


def person(name):
    """Returns the container of a user who has just signed up, and the user's id."""
    answer = SkygearContainer().send_action(
        "auth:signup", {"auth_data": {"username": unique(name)}, "password": f"{name} knows"}
    )
    session = answer["result"]
    return SkygearContainer(access_token=session["access_token"]), session["user_id"]


def record(record_type, data, key=None, acl=None):
    record_id = RecordID(record_type, key or str(uuid.uuid4()))
    return Record(record_id, None, acl, data=data)
