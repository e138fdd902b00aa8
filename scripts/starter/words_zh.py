"""Builds ``assets/starter/words_zh.json``: Chinese names of what the starter draws, in the starter's own words.

    npm pack cldr-annotations-modern@45.0.0 && tar xzf cldr-annotations-modern-45.0.0.tgz
    python scripts/starter/words_zh.py package/annotations

Names and keywords of emoji are from CLDR's annotations (Unicode License v3); colours, scenes and the commonest
things are written here, as keywords alone are ambiguous.
"""
# ruff: noqa: E501  # Chinese counts twice

import json
import re
import sys
import unicodedata
from collections import defaultdict
from pathlib import Path

TARGET = Path(__file__).resolve().parents[2] / "assets" / "starter" / "words_zh.json"
HAN = re.compile(r"[\u4e00-\u9fff]{1,8}")
ENGLISH = re.compile(r"[a-z][a-z' -]{1,40}")

COLOURS = {
    "红": "red", "橙": "orange", "黄": "yellow", "绿": "green", "蓝": "blue", "紫": "purple", "粉": "pink", "粉红": "pink",
    "棕": "brown", "褐": "brown", "黑": "black", "白": "white", "灰": "gray", "青": "teal", "金": "gold", "浅绿": "light green",
    "深绿": "dark green", "浅蓝": "light blue", "深蓝": "dark blue", "天蓝": "sky blue", "米": "beige",
}  # fmt: skip
SCENES = {
    "草地": "in a green meadow", "草原": "in a green meadow", "公园": "in a park", "田野": "in a field", "夜晚": "at night",
    "夜里": "at night", "夜空": "under a starry night sky", "星空": "under a starry night sky", "月光": "in the moonlight",
    "海滩": "on the beach", "沙滩": "on the beach", "海边": "on the beach", "雪地": "in the snow", "雪中": "in the snow",
    "雪里": "in the snow", "冬天": "in winter", "太空": "in space", "宇宙": "in outer space", "沙漠": "in the desert",
    "日落": "at sunset", "夕阳": "at sunset", "黄昏": "at dusk", "水下": "underwater", "海底": "under the sea",
    "水里": "underwater", "桌子上": "on a wooden table", "桌上": "on a table", "厨房": "in a kitchen", "森林": "in a forest",
    "树林": "in the woods", "城市": "in a city at night", "街上": "on a city street at night", "山里": "in the mountains",
    "群山": "in front of mountains", "山中": "in the mountains",
}  # fmt: skip
THINGS = {
    "苹果": "apple", "心": "heart", "爱心": "heart", "星星": "star", "树": "tree", "房子": "house", "花": "flower", "鱼": "fish",
    "鸟": "bird", "小鸟": "bird", "船": "boat", "帆船": "sailboat", "汽车": "car", "车": "car", "太阳": "sun", "月亮": "moon",
    "山": "mountain", "猫": "cat", "小猫": "cat", "猫咪": "cat", "狗": "dog", "小狗": "dog", "机器人": "robot",
    "雪人": "snowman", "城堡": "castle", "飞机": "airplane", "火箭": "rocket", "蛋糕": "cake", "冰淇淋": "ice cream",
    "蝴蝶": "butterfly", "蜜蜂": "bee", "玫瑰": "rose", "向日葵": "sunflower", "蘑菇": "mushroom", "草莓": "strawberry",
    "西瓜": "watermelon", "香蕉": "banana", "葡萄": "grapes", "披萨": "pizza", "汉堡": "hamburger", "马": "horse", "牛": "cow",
    "猪": "pig", "羊": "sheep", "兔子": "rabbit", "熊": "bear", "熊猫": "panda", "老虎": "tiger", "狮子": "lion",
    "大象": "elephant", "猴子": "monkey", "企鹅": "penguin", "青蛙": "frog", "乌龟": "turtle", "鲸鱼": "whale", "龙": "dragon",
    "独角兽": "unicorn", "狐狸": "fox", "鸡": "chicken", "鸭子": "duck", "自行车": "bicycle", "火车": "train", "气球": "balloon",
    "礼物": "gift", "书": "book", "球": "ball", "足球": "soccer ball", "篮球": "basketball", "吉他": "guitar", "钢琴": "piano",
    "雨伞": "umbrella", "彩虹": "rainbow", "云": "cloud", "火": "fire", "仙人掌": "cactus", "南瓜": "pumpkin", "胡萝卜": "carrot",
    "茶": "tea", "咖啡": "coffee", "面包": "bread", "鸡蛋": "egg", "帽子": "hat", "鞋": "shoe", "皇冠": "crown", "钻石": "diamond",
    "钥匙": "key", "时钟": "clock", "电脑": "computer", "手机": "phone", "相机": "camera", "灯": "lamp", "椅子": "chair",
    "骷髅": "skull", "鬼": "ghost", "外星人": "alien", "笑脸": "smiling face", "婴儿": "baby", "国王": "king", "女王": "queen",
}  # fmt: skip
STYLES = {"卡通": "cartoon", "扁平": "flat", "立体": "3d", "三维": "3d"}
#: Words that the order of the others says already.
SILENT = [
    "的",
    "了",
    "着",
    "一",
    "一个",
    "一只",
    "一张",
    "一朵",
    "一条",
    "一棵",
    "一座",
    "一辆",
    "一艘",
    "一匹",
    "一头",
    "一幅",
    "一位",
    "个",
    "只",
    "张",
    "朵",
    "条",
    "棵",
    "座",
    "辆",
    "艘",
    "匹",
    "头",
    "幅",
    "位",
    "在",
    "里",
    "上",
    "中",
    "是",
    "有",
    "色",
    "颜色",
    "背景",
    "风格",
    "图片",
    "图",
    "画",
    "请",
    "我",
    "想要",
    "可爱",
    "漂亮",
    "美丽",
]
JOINING = {
    "和": "and",
    "与": "and",
    "跟": "and",
    "两": "two",
    "两个": "two",
    "两只": "two",
    "三个": "three",
    "三只": "three",
}


def main(folder: str) -> None:
    chinese, english = (entries(Path(folder) / code) for code in ("zh", "en"))
    words: dict[str, str] = {}
    keywords: dict[str, list[str]] = defaultdict(list)
    for sign, entry in chinese.items():
        name = english.get(sign, {}).get("tts", [""])[0].lower().strip()
        if not ENGLISH.fullmatch(name) or not drawn(sign, name):
            continue
        for title in entry.get("tts", []):
            if HAN.fullmatch(title):
                words.setdefault(title, name)
        for word in entry.get("default", []):
            if HAN.fullmatch(word):
                keywords[word].append(name)
    for word, names in keywords.items():
        if len(word) > 1 and len(names) == 1:  # a word of several emoji names none of them
            words.setdefault(word, names[0])
    groups = {"things": words | THINGS, "colours": COLOURS, "scenes": SCENES, "styles": STYLES, "joining": JOINING}
    text = json.dumps(groups | {"silent": sorted(set(SILENT))}, ensure_ascii=False, indent=0, sort_keys=True)
    TARGET.write_text(text + "\n", encoding="utf-8")
    print(f"{len(groups['things'])} things, {TARGET.stat().st_size // 1000} kB")


def entries(folder: Path) -> dict[str, dict[str, list[str]]]:
    found = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    return dict(found["annotations"]["annotations"])


def drawn(sign: str, name: str) -> bool:
    """Whether it is a picture: no letter, sign, skin tone or part of a flag."""
    return unicodedata.category(sign[0]) == "So" and "skin tone" not in name and "button" not in name


if __name__ == "__main__":
    main(sys.argv[1])
