"""K12AI's unified codes, their texts, and the code of each exception (spec/k12ai.md, 2). Pure."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """The codes that this server gives by itself; programs may report any that is in `TEXTS`, and others."""

    SUCCESS = 100000
    STARTING = 100001
    RUNNING = 100002
    FINISHED = 100003
    STOPPED = 100004
    PAUSED = 100005
    ROBBED = 100006
    WARNING = 100009
    UP_TO_DATE = 100010
    TOO_LARGE = 100011
    KEY_MISSING = 100101
    NOT_ALLOWED = 100102
    NOT_JSON = 100103
    REQUEST_OTHER = 100199
    NO_SERVICE = 100201
    START_FAILED = 100202
    ALREADY_RUNNING = 100204
    NOT_RUNNING = 100205
    NO_SCHEMA = 100206
    SCHEMA_FAILED = 100207
    NO_MODEL = 100208
    NO_CONFIG = 100209
    TOO_MANY = 100210
    NO_INPUT = 100213
    NOTHING_STORED = 100214
    BAD_INPUT = 100215
    NO_DATASET_NAME = 100216
    BAD_PARAMETERS = 100231
    PARAMETER_MISSING = 100233
    TASK_OTHER = 100299
    OUT_OF_MEMORY = 100901
    NOT_IMPLEMENTED = 100902
    OBJECT_STORE = 100950
    UNKNOWN = 999999


#: English and Chinese text of each code. Clients test the number only.
TEXTS: dict[int, tuple[str, str]] = {
    0: ("ignore", "忽略"),
    100000: ("success", "成功"),
    100001: ("starting", "启动中"),
    100002: ("running", "运行中"),
    100003: ("finished", "已完成"),
    100004: ("stopped by user", "用户停止"),
    100005: ("paused", "已暂停"),
    100006: ("robbed", "已被抢占"),
    100009: ("warning", "警告"),
    100010: ("schema up to date", "模式已是最新"),
    100011: ("payload too large", "消息内容过大"),
    100012: ("model above GPU memory limit", "模型超出显存限制"),
    100101: ("request: key missing", "请求缺少字段"),
    100102: ("request: value not allowed", "请求字段值不允许"),
    100103: ("request: not JSON", "请求不是JSON格式"),
    100104: ("request: custom network not usable", "自定义网络不可用"),
    100199: ("request: other exception", "请求其他异常"),
    100201: ("service not known or not up", "服务不存在或未启动"),
    100202: ("start failed", "启动失败"),
    100203: ("container could not be started", "容器启动失败"),
    100204: ("already running", "任务正在运行"),
    100205: ("not found or not running", "任务不存在或未运行"),
    100206: ("schema file missing", "模式文件缺失"),
    100207: ("schema failed", "模式解析失败"),
    100208: ("no model file for evaluate or predict", "缺少模型文件"),
    100209: ("no config file for evaluate or predict", "缺少配置文件"),
    100210: ("too many tasks", "任务过多"),
    100211: ("model file damaged", "模型文件损坏"),
    100212: ("dataset missing", "数据集缺失"),
    100213: ("predict input missing", "缺少预测输入"),
    100214: ("nothing stored to resume from", "没有可恢复的任务"),
    100215: ("predict input malformed", "预测输入格式错误"),
    100216: ("dataset name missing", "缺少数据集名称"),
    100231: ("parameters invalid", "参数无效"),
    100232: ("input file key missing", "缺少输入文件字段"),
    100233: ("required key missing", "缺少必需字段"),
    100299: ("task: other exception", "任务其他异常"),
    100302: ("model invalid", "模型无效"),
    100303: ("optimizer invalid", "优化器无效"),
    100304: ("pad mode invalid", "填充模式无效"),
    100305: ("anchor method invalid", "锚框方法无效"),
    100306: ("image type invalid", "图像类型无效"),
    100307: ("tensor size invalid", "张量尺寸无效"),
    100308: ("SSD head expects a 1024-channel last layer", "SSD头需要1024通道的最后一层"),
    100309: ("SSD head expects a 512-channel layer", "SSD头需要512通道的层"),
    100401: ("network: size mismatch", "网络尺寸不匹配"),
    100402: ("network: padding too large for kernel", "网络填充大于卷积核"),
    100403: ("network: in_channels missing", "网络缺少in_channels"),
    100404: ("network: layer used before definition", "网络层未定义即使用"),
    100901: ("out of memory", "内存不足"),
    100902: ("not implemented", "未实现"),
    100903: ("configuration wrong", "配置错误"),
    100904: ("configuration key missing", "配置缺少字段"),
    100905: ("file not found", "文件不存在"),
    100906: ("CUDA out of memory", "显存不足"),
    100907: ("loss is NaN or infinite", "损失值为NaN或无穷"),
    100908: ("container image not found", "容器镜像不存在"),
    100909: ("system command failed", "系统命令失败"),
    100910: ("module not found", "模块不存在"),
    100911: ("index error", "索引错误"),
    100912: ("name error", "名称错误"),
    100913: ("key error", "字典键错误"),
    100914: ("attribute error", "属性错误"),
    100915: ("syntax error", "语法错误"),
    100916: ("indentation error", "缩进错误"),
    100917: ("type error", "类型错误"),
    100918: ("unsupported operand", "操作数不支持"),
    100930: ("division by zero", "除数为零"),
    100950: ("object store operation failed", "对象存储操作失败"),
    100951: ("object store connection failed", "对象存储连接失败"),
    100999: ("unknown", "未知错误"),
    999999: ("unknown", "未知错误"),
}

_BY_CLASS = {
    "MemoryError": 100901,
    "NotImplementedError": 100902,
    "ConfigurationError": 100903,
    "FileNotFoundError": 100905,
    "ImageNotFound": 100905,
    "OutOfMemoryError": 100906,
    "LossNanError": 100907,
    "ModuleNotFoundError": 100910,
    "IndexError": 100911,
    "NameError": 100912,
    "KeyError": 100913,
    "AttributeError": 100914,
    "SyntaxError": 100915,
    "IndentationError": 100916,
    "TabError": 100916,
    "ZeroDivisionError": 100930,
    "ConfigMissingException": 100233,
}
_CUDA = ("CUDA out of memory", "CUDA error: out of memory")
_VISION = {
    "InvalidModel": 100302,
    "InvalidOptimizerMethod": 100303,
    "InvalidPadMode": 100304,
    "InvalidAnchorMethod": 100305,
    "ImageTypeError": 100306,
    "TensorSizeError": 100307,
}


def text_of(code: int) -> tuple[str, str]:
    """English and Chinese text of a code, of one that nobody knows too."""
    return TEXTS.get(code, (f"code {code}", f"错误码 {code}"))


def code_of(err_type: str, err_text: str, vision: bool = False) -> int:
    """The code of an exception by its class and text; 999999 for any other. `vision`: with the rules of k12cv."""
    name = err_type.rpartition(".")[2]
    if vision and (found := _vision_code(name, err_text)) is not None:
        return found
    if name == "RuntimeError" and any(mark in err_text for mark in _CUDA):
        return 100906
    if name == "TypeError":
        return 100918 if "unsupported operand" in err_text else 100917
    return _BY_CLASS.get(name, int(Code.UNKNOWN))


def _vision_code(name: str, text: str) -> int | None:
    if name == "RuntimeError" and text.startswith("size mismatch"):
        return 100401
    if name == "RuntimeError" and "pad" in text.lower() and "half" in text and "kernel" in text:
        return 100402
    if name == "TypeError" and "in_channels" in text:
        return 100403
    if name == "NameError" and "_feat'" in text:
        return 100404
    return _VISION.get(name)


def is_failure(code: int) -> bool:
    """Whether it says that something went wrong, and not only how it goes."""
    return code > 100100
