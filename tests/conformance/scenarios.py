"""Which scenarios of the suite run against what. Data; test_product.py proves it complete."""

from collections.abc import Mapping

HANDSHAKE, MODERN = "2025-11-25", "2026-07-28"
REVISIONS = (HANDSHAKE, MODERN)

PRODUCT: Mapping[str, tuple[str, ...]] = {
    "server-initialize": (HANDSHAKE,),
    "server-session-lifecycle": (HANDSHAKE,),
    "ping": (HANDSHAKE,),
    "completion-complete": REVISIONS,
    "tools-list": REVISIONS,
    "server-sse-multiple-streams": REVISIONS,
    "resources-list": REVISIONS,
    "prompts-list": REVISIONS,
    "dns-rebinding-protection": REVISIONS,
    "sep-2164-resource-not-found": (MODERN,),
    "caching": (MODERN,),
    "http-header-validation": (MODERN,),
}
"""Scenarios that need nothing but a server, with the revisions they run under."""

UNTESTABLE: Mapping[str, str] = {
    "sep-2575-server-rejects-undeclared-capability": "test_missing_capability",
    "sep-2575-missing-capability-http-400": "test_missing_capability",
    "sep-2575-http-server-no-independent-requests-on-stream": "test_streaming_elicitation",
    "sep-2575-server-no-log-without-loglevel": "test_logging_tool",
}
"""Checks of `server-stateless` that need a fixture, which the product runs without."""

FIXTURES: Mapping[str, str] = {
    "server-stateless": "test_missing_capability",
    "logging-set-level": "logging/setLevel",
    "tools-call-simple-text": "test_simple_text",
    "tools-call-image": "test_image_content",
    "tools-call-audio": "test_audio_content",
    "tools-call-embedded-resource": "test_embedded_resource",
    "tools-call-mixed-content": "test_multiple_content_types",
    "tools-call-with-logging": "test_tool_with_logging",
    "tools-call-error": "test_error_handling",
    "tools-call-with-progress": "test_tool_with_progress",
    "tools-call-sampling": "test_sampling",
    "tools-call-elicitation": "test_elicitation",
    "json-schema-2020-12": "json_schema_2020_12_tool",
    "elicitation-sep1034-defaults": "test_elicitation_sep1034_defaults",
    "elicitation-sep1330-enums": "test_elicitation_sep1330_enums",
    "server-sse-polling": "test_reconnection",
    "resources-read-text": "test://static-text",
    "resources-read-binary": "test://static-binary",
    "resources-templates-read": "test://template/{id}/data",
    "resources-subscribe": "resources/subscribe",
    "resources-unsubscribe": "resources/unsubscribe",
    "prompts-get-simple": "test_simple_prompt",
    "prompts-get-with-args": "test_prompt_with_arguments",
    "prompts-get-embedded-resource": "test_prompt_with_embedded_resource",
    "prompts-get-with-image": "test_prompt_with_image",
    "http-custom-header-server-validation": "test_x_mcp_header",
    "input-required-result-basic-elicitation": "test_input_required_result_elicitation",
    "input-required-result-basic-sampling": "test_input_required_result_sampling",
    "input-required-result-basic-list-roots": "test_input_required_result_list_roots",
    "input-required-result-request-state": "test_input_required_result_request_state",
    "input-required-result-multiple-input-requests": "test_input_required_result_multiple_inputs",
    "input-required-result-multi-round": "test_input_required_result_multi_round",
    "input-required-result-missing-input-response": "test_input_required_result_elicitation",
    "input-required-result-non-tool-request": "test_input_required_result_prompt",
    "input-required-result-result-type": "test_input_required_result_elicitation",
    "input-required-result-unsupported-methods": "test_input_required_result_elicitation",
    "input-required-result-tampered-state": "test_input_required_result_tampered_state",
    "input-required-result-capability-check": "test_input_required_result_capabilities",
    "input-required-result-ignore-extra-params": "test_input_required_result_elicitation",
    "input-required-result-validate-input": "test_input_required_result_elicitation",
    "tasks-lifecycle": "slow_compute",
    "tasks-capability-negotiation": "slow_compute",
    "tasks-wire-fields": "slow_compute",
    "tasks-request-state-removal": "slow_compute",
    "tasks-mrtr-input": "confirm_delete",
    "tasks-request-headers": "greet",
    "tasks-dispatch-and-envelope": "slow_compute",
    "tasks-status-notifications": "slow_compute",
    "tasks-required-task-error": "failing_job",
    "tasks-mrtr-composition": "test_tool_with_task",
}
"""Scenarios that call something by a fixed name, and what; the conformance server has it."""

NOT_SERVED: Mapping[str, str] = {
    "sep-2640-skills-directory": "io.modelcontextprotocol/skills",
    "sep-2640-skills-enumeration": "io.modelcontextprotocol/skills",
    "sep-2640-skills-manifest": "io.modelcontextprotocol/skills",
}
"""Scenarios of extensions that neither server declares; the suite skips their checks then."""

LEAST_CHECKS: Mapping[str, int] = {HANDSHAKE: 84, MODERN: 196}
"""Checks that passed on 2026-11-21, the suite's own count: an empty run must not look like a
success."""
