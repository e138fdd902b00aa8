"""``studio.reports`` and ``studio.webhooks`` of a studio on another machine."""

from urllib.parse import quote

from diffusion_local.remote.reading import read
from diffusion_local.remote.server import Server
from diffusion_local.reports.reports import as_json
from diffusion_local.store.deliveries import Delivery


class RemoteReports:
    def __init__(self, server: Server) -> None:
        self._server = server

    def written(
        self, form: str, batch_id: str | None = None, since: str | None = None, until: str | None = None
    ) -> str:
        path = f"/reports/batch/{quote(batch_id, safe='')}" if batch_id else "/reports/night"
        if form == "json":
            return as_json(self._server.get(path, since=since, until=until))
        return "".join(self._server.lines(f"{path}.{form}", since=since, until=until))


class RemoteWebhooks:
    def __init__(self, server: Server) -> None:
        self._server = server

    def deliveries(self, limit: int = 50, before: str | None = None, state: str | None = None) -> list[Delivery]:
        told = self._server.get("/webhooks/deliveries", limit=limit, before=before, state=state)
        return [read(Delivery, each) for each in told["deliveries"]]

    def resend(self, delivery_id: str) -> Delivery:
        return read(Delivery, self._server.post(f"/webhooks/deliveries/{quote(delivery_id, safe='')}/resend"))

    def test(self, url: str) -> Delivery:
        return read(Delivery, self._server.post("/webhooks/test", {"url": url}))
