"""What operators ask over HTTP: /healthz for probes, /metrics for Prometheus. Owns nothing."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from flux_mcp.principals import LOCAL
from flux_mcp.service import Service

HEALTH_PATH, METRICS_PATH = "/healthz", "/metrics"


def operations_routes(service: Service) -> list[BaseRoute]:
    """Return the routes; the guard stands in front of them as of every other."""

    async def healthz(_: Request) -> Response:
        answer = await service.operations.health()
        return JSONResponse(answer.model_dump(), status_code=answer.http_status)

    async def metrics(request: Request) -> Response:
        # A name sees its own jobs only, and this counts everybody's.
        if request.user.access_token.client_id != LOCAL:
            raise HTTPException(403, "/metrics is for a token without a name.")
        text, content_type = await service.operations.metrics()
        return Response(text, headers={"content-type": content_type})

    return [Route(HEALTH_PATH, endpoint=healthz), Route(METRICS_PATH, endpoint=metrics)]
