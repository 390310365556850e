"""Everything that the tests ask Zhipu's models for through the SDKs, by name."""

from typing import Any, Final

from tests.vendors.emulate_zhipu import MAINLAND
from tests.vendors.sdks import Case, case

SIZES: Final = (
    "1024x1024",
    "1536x1024",
    "1024x1536",
    "1792x1024",
    "1024x1792",
    "auto",
    "256x256",
    "512x512",
    "9000x90",
)
NO_SIZES: Final = ("1024\u00d71024", "0x0", "-1x5", "99999999x1", "large")
QUALITIES: Final = ("auto", "low", "medium", "high", "standard", "hd")
COG: Final = "cogview-4-250304"
UNSAID: Final[dict[str, Any]] = {
    "style": "vivid",
    "background": "transparent",
    "moderation": "low",
    "output_format": "webp",
    "output_compression": 50,
}
REFUSED: Final = {
    "answer 401 1002": (502, "upstream_auth_failed"),
    "answer 429 1112": (502, "upstream_auth_failed"),
    "answer 429 1113": (503, "upstream_unavailable"),
    "answer 400 1214": (400, "invalid_value"),
    "answer 400 1211": (404, "model_not_found"),
    "answer 429 1302": (429, "rate_limit_exceeded"),
    "answer 429 1312": (503, "upstream_unavailable"),
    "answer 500 1234": (502, "upstream_error"),
    "answer 200 1113": (503, "upstream_unavailable"),
    "refuse the prompt": (403, "moderation_blocked"),
    "refuse the picture": (403, "moderation_blocked"),
}


def asked(name: str, model: str = COG, prompt: str = "a red lantern", **params: Any) -> Case:
    """Write a case that can be found again in what the vendor was asked."""
    return case(name, model=model, prompt=f"{name}: {prompt}", **params)


CASES: Final = (
    *(asked(f"{model} {size}", model, size=size) for model in (*MAINLAND, "zai-glm-image") for size in SIZES),
    *(asked(f"{model} in {quality}", model, quality=quality) for model in MAINLAND for quality in QUALITIES),
    *(asked(f"n {n} {model}", model, n=n) for n in range(1, 11) for model in (COG, "glm-image")),
    *(asked(f"no {size}", size=size) for size in NO_SIZES),
    *(asked(f"{refusal} {model}", model, refusal) for refusal in REFUSED for model in (COG, "glm-image")),
    asked("url", response_format="url"),
    asked("watermark", watermark=False),
    asked("watermark inside", extra_body={"watermark": False}),
    asked("watermark of the vendor", watermark_enabled=False),
    asked("watermark of the vendor inside", extra_body={"watermark_enabled": False}),
    asked("watermarks", extra_body={"watermark": True, "watermark_enabled": False}),
    asked("user", user="tenant-42-user-7"),
    asked("short user", user="me"),
    asked("user id", user_id="tenant-42-user-7"),
    asked("user id inside", extra_body={"user_id": "tenant-42-user-7"}),
    asked("short user id", user_id="me"),
    asked("request id", n=3, extra_body={"request_id": "order-5"}),
    asked("words", extra_body={"sensitive_word_check": {"type": "ALL", "status": "DISABLE"}}),
    asked("inside", extra_body={"size": "512x512", "quality": "hd"}),
    asked("unsaid", **UNSAID),
    asked("of others", extra_body={"aspect_ratio": "16:9", "negative_prompt": "blur", "seed": 7}),
    asked("other count", extra_body={"num_images": 4}),
    asked("strict", size="256x256", extra_headers={"x-amux-strict": "true"}),
    asked("strict and exact", size="1344x768", quality="hd", extra_headers={"x-amux-strict": "true"}),
    asked("too many", n=11),
    asked("none", n=0),
    case("no prompt", model=COG, prompt=""),
    asked("long", "glm-image", "x" * 1000),
    asked("partly", prompt="first 2 fail", n=4),
    asked("partly ordered", "glm-image", prompt="first 2 fail", n=4),
    asked("wholly", prompt="first 3 fail", n=3),
    asked("task fails", "glm-image", prompt="task fails"),
    asked("task fails for a reason", "glm-image", prompt="task fails 1234"),
    asked("free", "cogview-3-flash", n=2),
    asked("elsewhere only", "zai-cogview-4"),
    asked("wrong key", "wrong-key"),
    asked("wrong path", "wrong-path"),
)
