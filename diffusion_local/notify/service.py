"""Webhook use cases: delivery log, resending, trial messages, the signing secret, and address checks."""

from collections.abc import Sequence

from diffusion_local.authority import guarded
from diffusion_local.domain import utc_now
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.notify import dispatcher
from diffusion_local.notify.deliveries import HOOK, Delivery, DeliveryStore, NoticeStore
from diffusion_local.notify.dispatcher import MAX_TRIES
from diffusion_local.notify.outbound_hosts import AllowedTargets, check_target
from diffusion_local.notify.webhook import webhook_secret
from diffusion_local.options.values import check_cursor
from diffusion_local.settings import Settings

DELIVERY_STATES = ("waiting", "sending", "delivered", "failed")


@guarded("webhooks")
class Webhooks:
    """Webhook use cases, available as ``studio.webhooks``. All but ``check`` require an admin."""

    def __init__(self, settings: Settings, notices: NoticeStore, deliveries: DeliveryStore) -> None:
        self._settings = settings
        self._notices = notices
        self._deliveries = deliveries

    def check(self, url: str) -> None:
        """Raise InvalidParams for ``webhook`` if messages may not or cannot be sent to this URL."""
        check_target(url, AllowedTargets.parse(self._settings.webhook_allow_private))

    def deliveries(self, limit: int = 50, before: str | None = None, state: str | None = None) -> Sequence[Delivery]:
        """The delivery log, newest first. ``before``: last id of the previous page."""
        if not isinstance(limit, int) or not 1 <= limit <= 500:
            raise InvalidParams("limit", message("range", low=1, high=500, got=echo(limit)))
        if state and state not in DELIVERY_STATES:
            raise InvalidParams("state", message("one_of", known=list(DELIVERY_STATES), got=echo(state)))
        return self._deliveries.page(limit, check_cursor("before", before), state or None)

    def delivery(self, delivery_id: str) -> Delivery:
        return self._deliveries.get(delivery_id)

    def resend(self, delivery_id: str) -> Delivery:
        """Send a delivery again with the same id, so that the receiver can detect the repetition."""
        found = self.delivery(delivery_id)
        return self._deliveries.resend(delivery_id, 1 if found.receiver.startswith(HOOK) else MAX_TRIES)

    def test(self, url: str) -> Delivery:
        """Queue a trial message. Raises InvalidParams."""
        self.check(url)
        body = dispatcher.payload_of("test", utc_now(), {"text": "A trial message of diffusion-local."})
        [delivery_id] = self._deliveries.add(self._notices.add_handled("test"), body, {url: 1})
        return self._deliveries.get(delivery_id)

    def secret(self) -> str:
        """The secret that receivers need to verify signatures."""
        return webhook_secret(self._settings)
