"""Lists the special tokens of a HugCoder tokenizer, in id order.

They have StarCoder's spelling, so that llama.cpp, Continue, twinny and Tabby recognise the model
without changes. Then follow ChatML, tool and think markers, and reserved tokens up to 64. The FIM
sentinels come from `hugcoder.data.fim_formats`.
"""

from hugcoder.data.fim_formats import STARCODER

END_OF_TEXT = STARCODER.end
NUM_SPECIAL_TOKENS = 64

_PULL_REQUEST_PARTS = (
    "status",
    "is_merged",
    "base",
    "file",
    "base_code",
    "diff",
    "diff_hunk",
    "comment",
    "event_id",
    "review",
    "review_state",
    "review_comment",
    "in_reply_to_review_id",
    "in_reply_to_comment_id",
    "diff_hunk_comment_line",
)
_NAMED = [
    END_OF_TEXT,
    STARCODER.prefix,
    STARCODER.middle,
    STARCODER.suffix,
    STARCODER.pad,
    STARCODER.repo_name,
    STARCODER.file_separator,
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
    "<code_to_intermediate>",
    "<intermediate_to_code>",
    "<pr>",
    *(f"<pr_{part}>" for part in _PULL_REQUEST_PARTS),
    "<NAME>",
    "<EMAIL>",
    "<KEY>",
    "<PASSWORD>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]
SPECIAL_TOKENS: tuple[str, ...] = (
    *_NAMED,
    *(f"<|reserved_{i}|>" for i in range(NUM_SPECIAL_TOKENS - len(_NAMED))),
)
