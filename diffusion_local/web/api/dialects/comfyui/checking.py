"""Validates a graph against the supported nodes.

A graph maps node ids to ``{"class_type", "inputs"}``; an input is a value, or a link ``[node id, output]``. Only nodes
that an output node depends on are visited, each once and without recursion, so neither size nor cycles matter.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusion_local.serializers import Json
from diffusion_local.web.api.dialects.comfyui.nodes import NODES, WIDGET_TYPES, Input, Names

MOST_NODES = 200  # that are visited
MOST_LISTED = 50  # values named in an error


@dataclass(frozen=True, slots=True)
class Fault:
    """An error of one node, as ComfyUI words it."""

    node_id: str
    type: str
    message: str
    details: str
    extra: Json = field(default_factory=dict)

    def as_json(self) -> Json:
        return {"type": self.type, "message": self.message, "details": self.details, "extra_info": self.extra}


def is_link(value: Any) -> bool:
    return isinstance(value, list)


def output_nodes(graph: Mapping[str, Any]) -> list[str]:
    return [
        node_id
        for node_id, node in graph.items()
        if (found := NODES.get(class_of(node))) is not None and found.is_output
    ]


def class_of(node: Any) -> str:
    found = node.get("class_type") if isinstance(node, dict) else None
    return found if isinstance(found, str) else ""


def inputs_of(node: Any) -> dict[str, Any]:
    found = node.get("inputs") if isinstance(node, dict) else None
    return found if isinstance(found, dict) else {}


def dependencies(graph: Mapping[str, Any], ends: list[str]) -> list[str]:
    """The given nodes and all that they depend on; stops early once there are more than MOST_NODES."""
    nodes, waiting = dict.fromkeys(ends), list(ends)
    while waiting and len(nodes) <= MOST_NODES:
        for value in inputs_of(graph[waiting.pop()]).values():
            if is_link(value) and value and isinstance(value[0], str) and value[0] in graph and value[0] not in nodes:
                nodes[value[0]] = None
                waiting.append(value[0])
    return list(nodes)


def in_order(graph: Mapping[str, Any], node_ids: list[str]) -> list[str] | None:
    """The nodes in dependency order; None if they form a cycle."""
    left = {
        node_id: {value[0] for value in inputs_of(graph[node_id]).values() if is_link(value)} for node_id in node_ids
    }
    ordered: list[str] = []
    while left:
        ready = [node_id for node_id, needed in left.items() if not needed & left.keys()]
        if not ready:
            return None
        ordered += ready
        for node_id in ready:
            del left[node_id]
    return ordered


def faults(graph: Mapping[str, Any], node_ids: list[str], names: Names) -> Iterator[Fault]:
    """All faults of these nodes."""
    for node_id in node_ids:
        name = class_of(graph[node_id])
        if name not in NODES:
            yield Fault(
                node_id,
                "missing_node_type",
                f"Node '{name[:100]}' not found. This server does not have it.",
                f"Node ID '#{node_id}'",
                {"node_id": node_id, "class_type": name[:100]},
            )
            continue
        inputs = inputs_of(graph[node_id])
        for key, each in NODES[name].inputs.items():
            if key not in inputs:
                if each.required:
                    yield Fault(
                        node_id, "required_input_missing", "Required input is missing", key, {"input_name": key}
                    )
            elif is_link(inputs[key]):
                yield from link_faults(graph, node_id, key, each, inputs[key])
            else:
                yield from value_faults(node_id, key, each, inputs[key], names)


def link_faults(graph: Mapping[str, Any], node_id: str, key: str, each: Input, link: list[Any]) -> Iterator[Fault]:
    extra = {"input_name": key, "received_value": shortened(link)}
    good = len(link) == 2 and isinstance(link[0], str) and isinstance(link[1], int) and not isinstance(link[1], bool)
    if not good or link[0] not in graph:
        problem = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        yield Fault(node_id, "bad_linked_input", problem, key, extra)
        return
    source = NODES.get(class_of(graph[link[0]]))
    if source is None:
        return  # reported at that node
    outputs = source.outputs
    kind = outputs[link[1]] if 0 <= link[1] < len(outputs) else "nothing"
    if not accepts(kind, each.kind):
        details = f"{key}, received_type({kind}) mismatch input_type({each.kind})"
        yield Fault(node_id, "return_type_mismatch", "Return type mismatch between linked nodes", details, extra)


def accepts(kind: str, expected: str) -> bool:
    return kind == expected or (kind, expected) in (("INT", "FLOAT"), ("STRING", "COMBO"))


def value_faults(node_id: str, key: str, each: Input, value: Any, names: Names) -> Iterator[Fault]:
    extra: Json = {"input_name": key, "received_value": shortened(value)}
    if each.kind not in (*WIDGET_TYPES, "COMBO"):
        problem = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        yield Fault(node_id, "bad_linked_input", problem, key, extra)
        return
    number = converted(each.kind, value)
    if number is None:
        problem = f"Failed to convert an input value to a {each.kind} value"
        yield Fault(node_id, "invalid_input_type", problem, f"{key}, {shortened(value)}", extra)
    elif each.low is not None and number < each.low:
        yield Fault(node_id, "value_smaller_than_min", f"Value {number} smaller than min of {each.low}", key, extra)
    elif each.high is not None and number > each.high:
        yield Fault(node_id, "value_bigger_than_max", f"Value {number} bigger than max of {each.high}", key, extra)
    elif each.kind == "COMBO" and not each.open and not is_choice(number, each, names):
        yield not_in_list(node_id, key, number, names.choices(each))


def is_choice(value: str, each: Input, names: Names) -> bool:
    return find_choice(value, names.choices(each)) != "" or (
        each.choices == "models" and names.alias(value) is not None
    )


def find_choice(value: str, choices: tuple[str, ...]) -> str:
    """The choice that a file name means, ignoring its folder and suffix; "" if there is none."""
    name = value.replace("\\", "/").rpartition("/")[2]
    stem = name.rpartition(".")[0] or name
    return next((each for each in (value, name, stem) if each in choices), "")


def not_in_list(node_id: str, key: str, value: str, choices: tuple[str, ...]) -> Fault:
    listed = list(choices[:MOST_LISTED])
    details = f"{key}: '{shortened(value)}' not in {listed}"
    extra = {"input_name": key, "received_value": shortened(value)}
    return Fault(node_id, "value_not_in_list", "Value not in list", details, extra)


def converted(kind: str, value: Any) -> Any:
    """A value converted to its input's type; None if impossible. Unlike ComfyUI, which truncates fractions and takes
    true for 1, only numbers that keep their value are converted.
    """
    try:
        if kind in ("INT", "FLOAT") and isinstance(value, bool):
            return None
        if kind == "INT":
            whole = None if isinstance(value, str) and len(value) > 40 else int(value)
            return None if isinstance(value, float) and whole != value else whole
        if kind == "FLOAT":
            found = float(value)
            return found if found == found and abs(found) != float("inf") else None
        if kind == "BOOLEAN":
            return bool(value)
        return str(value) if isinstance(value, str | int | float) else None
    except (TypeError, ValueError, OverflowError):
        return None


def shortened(value: Any) -> str:
    text = str(value) if not isinstance(value, dict | list) else "..."
    return text if len(text) <= 100 else text[:100] + "..."
