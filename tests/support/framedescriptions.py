"""Descriptions of video frames as a vision model words them: English-like sentences, about 650
bytes a frame, from a fixed seed. Scenes last a while, some words are far commoner than others, and
turns of phrase come back.

Real ones (6,889 frames of 13 videos) become 3.6 times smaller with ``gzip -9``. These are held to
it: whoever measures a ratio on them checks first that gzip finds them no easier.
"""

from __future__ import annotations

import random
from itertools import accumulate
from typing import Any

_NOUNS = """
    man woman table camera person room street background wall light car building hand shirt screen
    window group child sign door chair water tree road floor phone jacket face desk board crowd dog
    field stage field bottle glass paper kitchen hat counter shadow microphone bag fence stone rope
    bicycle lamp hallway garden bridge curtain shelf sweater platform ladder mirror fountain sofa
    guitar uniform helmet tower basket laptop monitor carpet balcony ceiling poster engine blanket
    staircase vehicle puddle corridor horizon apron scarf pavement machine statue cable tripod
    workbench label railing tractor boulder canopy notebook trolley canvas goalkeeper necklace
    warehouse lantern cupboard radiator windscreen orchard harbour cyclist violinist carpenter
    spectator lecturer passenger gardener referee paramedic bartender toddler pedestrian surfer
    telescope wheelbarrow chandelier typewriter umbrella accordion scaffolding aquarium excavator
    envelope thermometer saxophone hammock greenhouse turnstile locomotive trampoline windmill
"""
_ADJECTIVES = """
    white large black blue small red young dark bright wooden green several open old grey long
    modern empty tall blurred narrow yellow distant older smiling crowded quiet metal soft warm
    brown plain round striped outdoor faded busy heavy glossy shallow leafy dusty elderly curved
    pale colourful casual formal muddy transparent cluttered polished rusty patterned sunlit shaded
    tangled translucent weathered makeshift symmetrical turquoise crimson ornate makeshift festive
    industrial unfinished overgrown cylindrical reflective threadbare luminous asymmetrical
"""
_VERBS = """
    standing holding wearing looking sitting walking talking smiling pointing working leaning moving
    carrying watching turning playing reaching waiting writing running facing opening lifting
    cooking typing climbing listening gesturing laughing resting pulling cleaning painting balancing
    kneeling stretching assembling whispering juggling sketching rehearsing measuring unwrapping
    stirring applauding descending hesitating inspecting photographing sweeping negotiating
"""
_PLACES = """
    in on|with|near|behind|next to|in front of|beside|under|at the edge of|to the left of|above
    to the right of|across from|between|along|against|over|at|towards|beyond|inside|among
"""
_OPENINGS = """
    The image shows|In this frame,|The scene depicts|The frame captures|The image features
    This frame shows|In the foreground,|The video shows|Here we see|The shot presents
"""
_REMARKS = """
    The background is slightly out of focus|The lighting suggests|The overall mood is
    The composition draws attention to|The setting appears to be|There is also|In the background,
    The colours are mostly|Part of the view is hidden by|The camera seems to be placed
    It is not clear whether|Judging by|Text on the|The expression suggests|Visible at the top is
    Slightly further back,|Another|On closer look,|The atmosphere is|What stands out is
"""


_SYLLABLES = """
    al be cor dan el fin gar hol ing jor kel lum mar nes ol pra qui rod sel tam ur vin wes yor zan
    bri cha dro fla gre ker mil nor pol ster tri
"""


class _Choice:
    """Words of which the first are the commonest, as in any language."""

    def __init__(self, text: str, *, phrases: bool = False) -> None:
        parts = text.replace("\n", "|").split("|") if phrases else text.split()
        self._words = [part.strip() for part in parts if part.strip()]
        self._sums = list(accumulate(1 / (rank + 150) for rank in range(len(self._words))))

    def __call__(self, chance: random.Random) -> str:
        return chance.choices(self._words, cum_weights=self._sums)[0]


_syllables = _SYLLABLES.split()
_noun, _adjective, _verb = _Choice(_NOUNS), _Choice(_ADJECTIVES), _Choice(_VERBS)
_place = _Choice(_PLACES, phrases=True)
_opening, _remark = _Choice(_OPENINGS, phrases=True), _Choice(_REMARKS, phrases=True)


def _thing(chance: random.Random) -> str:
    words = [chance.choice(("a", "a", "the", "the", "his", "their", "one", "another"))]
    if chance.random() < 0.6:
        words.append(_adjective(chance))
    if chance.random() < 0.5:  # "street lamp"
        words.append(_noun(chance))
    if chance.random() < 0.6:  # what is read off signs and shirts: names and numbers
        name = "".join(chance.choices(_syllables, k=chance.randint(1, 3)))
        words.append(f"{name.capitalize()} {chance.randint(2, 999)}")
    return " ".join([*words, _noun(chance)])


def _sentence(chance: random.Random, start: str) -> str:
    text = f"{start} {_thing(chance)}"
    for _ in range(chance.randint(1, 3)):
        joint = chance.random()
        if joint < 0.4:
            text += f" {_verb(chance)} {_thing(chance)}"
        elif joint < 0.8:
            text += f" {_place(chance)} {_thing(chance)}"
        else:
            text += f", {chance.choice(('and', 'while', 'with', 'as'))} {_thing(chance)}"
    return text + "."


def frame_descriptions(frames: int, seed: int = 1) -> dict[str, Any]:
    """The descriptions artifact of ``frames`` frames; some texts end in mid-sentence, as where a
    model ran out of tokens.
    """
    chance = random.Random(seed)
    texts: dict[str, str] = {}
    scenes: list[str] = []
    said: list[str] = []
    scene, left = "", 0
    for number in range(frames):
        if left == 0:  # neighbours show the same thing, and are told so in nearly the same words
            left = chance.randint(1, 3)
            if scenes and chance.random() < 0.2:  # a cut back to something shown before
                scene = chance.choice(scenes)
            else:
                scene = _sentence(chance, _opening(chance))
                scenes.append(scene)
        left -= 1
        text = scene if chance.random() < 0.3 else _sentence(chance, _opening(chance))
        while len(text) < 600:
            if said and chance.random() < 0.12:  # a turn that this model has used before
                text += " " + chance.choice(said)
            else:
                said.append(_sentence(chance, _remark(chance)))
                text += " " + said[-1]
        texts[str(number)] = text[:700] if chance.random() < 0.8 else text
    return {"video_id": "v_-6dz6tBH77I", "descriptions": texts, "total_descriptions": frames}
