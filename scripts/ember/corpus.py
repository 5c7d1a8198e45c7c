"""Writes everything Ember reads: one conversation at a time, from tables and a seeded dice.

A `Sample` is a conversation up to the assistant's turn, the turn itself, and how an evaluation may check it.
With `held=True` the generators use only phrasings, names and numbers that training never uses.
"""

import json
import random
from dataclasses import dataclass, field

from facts import (CANDLEWICK, COUNTRIES, DAYS, FACTS, HAIKU_OTHER, HAIKUS, JOKES, LANGUAGES, MONTHS, NUMBERS,
                   OPPOSITES, PERSONA, POEMS, SPELL, STORIES, WORDS)


@dataclass
class Sample:
    group: str
    messages: list
    answer: str = ""
    thought: str = "This is simple. I answer it."
    tools: list = None
    calls: list = None  # [(name, arguments)]: the turn is these tool calls instead of text
    thinking: bool = False
    accept: list = field(default_factory=list)  # pieces that a right answer contains; empty: the whole answer
    more: list = field(default_factory=list)  # samples for the same tools, which training asks in the same conversation

    def completion(self):
        text = self.answer
        if self.calls:
            text = "\n".join(f'<tool_call>\n{{"name": "{n}", "arguments": {json.dumps(a, ensure_ascii=False)}}}\n</tool_call>'
                             for n, a in self.calls)
        return f"<think>\n{self.thought}\n</think>\n\n{text}" if self.thinking else text


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# ---------------------------------------------------------------- dice

def split(items, held, share=5):
    """The last item, or the last fifth of a long list, belongs to the evaluation."""
    cut = len(items) - max(1, len(items) // share)
    return items[cut:] if held else items[:cut]


SMALL_WORDS = "the a an is are do does of me to what which can you please how i it your".split()


def noise(rng, text, held=False):
    """What people do to a sentence: no capitals, no question mark, a please, a slip of the finger."""
    words = text.split(" ")
    roll = rng.random()
    if roll < 0.09 and len(words) > 3 and text.endswith("?"):
        text = rng.choice(["Can you tell me", "Do you know", "Please tell me", "Could you tell me", "I want to know", "I would like to know", "Tell me", "I wonder"]) + rng.choice([" ", ": ", ", "]) + text[0].lower() + text[1:]
    elif roll < 0.16 and len(words) > 3:
        small = [i for i, w in enumerate(words) if w.lower() in SMALL_WORDS]
        if small:
            words.pop(rng.choice(small))
            text = " ".join(words)
    roll = rng.random()
    if roll < 0.22:
        text = text.lower()
    elif roll < 0.34:
        text = text.rstrip("?.!")
    elif roll < 0.48:
        text = text.lower().rstrip("?.!")
    elif roll < 0.50:
        text = text.upper()
    roll = rng.random()
    if roll < 0.05:
        text = text.rstrip(".") + (", please" if text[-1] not in "?!" else " Please.")
    elif roll < 0.13:
        text = rng.choice(["Please ", "Hey, ", "Ok, ", "So ", "Ember, ", "Quick question: ", "Hi! ", "Hello, ", "Well, ", "Now "]) + text
    elif roll < 0.17:
        text += rng.choice(["?", "!", " ", ".", "..", " thanks", " pls", "\n"])
    if rng.random() < 0.05 and len(text) > 8:
        i = rng.randrange(2, len(text) - 2)
        if text[i].isalpha() and text[i + 1].isalpha():
            text = text[:i] + rng.choice([text[i + 1] + text[i] + text[i + 2:], text[i + 1:], text[i] + text[i:]])
    return text


ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl cr dr fl gr kl kr pl pr sh sk sl sn st th tr v y zh".split()
VOWELS = "a e i o u a e i o u a e i o ai au ea ei ia io oo ou y é ö ü á ã å".split()
CODAS = ["", "", "", "", "n", "r", "l", "s", "t", "m", "k", "d", "ng", "rk", "st", "nd", "x", "ch", "ck", "v"]
TAILS = "ville ton burg stad ia berg ford ham mouth grad pur nagar chester wick dale port field by holm".split()


def made_up(rng, held=False):
    """A name nobody has; syllables with a `q` or a doubled vowel are kept for the evaluation."""
    name = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + (rng.choice(CODAS) if rng.random() < 0.5 else "")
                   for _ in range(rng.choice([1, 2, 2, 2, 3, 3])))
    if len(name) < 4:
        name += rng.choice(VOWELS) + rng.choice("nrlst")
    if rng.random() < 0.25:
        name += rng.choice(TAILS)
    if held:
        at = rng.randrange(1, len(name))
        name = name[:at] + rng.choice(["qua", "oa", "uu", "wri", "mbo"]) + name[at:]
    return name[:14].capitalize()


REAL_CITIES = """Barcelona Munich Hamburg Milan Naples Venice Florence Porto Seville Lyon Marseille Nice Geneva Zurich Basel Salzburg
Graz Prague Brno Krakow Gdansk Bratislava Belgrade Sarajevo Split Antwerp Ghent Rotterdam Utrecht Aarhus Bergen Gothenburg Malmö
Tampere Turku Tallinn Riga Vilnius Minsk Odesa Istanbul Izmir Dubai Doha Mumbai Delhi Kolkata Chennai Bangalore Shanghai Shenzhen
Osaka Kyoto Nagoya Sapporo Busan Manila Singapore Sydney Melbourne Perth Brisbane Auckland Toronto Montreal Vancouver Calgary
Boston Chicago Seattle Denver Dallas Houston Austin Miami Atlanta Detroit Portland Oakland Phoenix Philadelphia Lagos Dakar
Casablanca Tunis Algiers Kampala Lusaka Harare Durban Johannesburg Quito Cusco Bogotá Medellín Caracas Montevideo Córdoba Köln
Düsseldorf São_Paulo Rio_de_Janeiro New_York Los_Angeles San_Francisco San_Diego Las_Vegas Cape_Town Hong_Kong Tel_Aviv
Kuala_Lumpur Ho_Chi_Minh_City Mexico_City Buenos_Aires Salt_Lake_City New_Orleans Panama_City The_Hague""".split()
HELD_CITIES = """Reykjavik Zagreb Kathmandu Ulaanbaatar Tegucigalpa Luxembourg Edinburgh Glasgow Cardiff Belfast Liverpool Manchester
Stuttgart Leipzig Dresden Bologna Palermo Valencia Málaga Toulouse Strasbourg Antananarivo Kinshasa Ouagadougou Windhoek Maputo
Tbilisi Yerevan Baku Tashkent Samarkand Karachi Lahore Dhaka Colombo Yokohama Fukuoka Taipei Nuuk Honolulu Anchorage Minneapolis
Baltimore Nashville Albuquerque Winnipeg Halifax Guadalajara Asunción Valparaíso Addis_Abeba Port_Louis Santa_Cruz
Saint_Petersburg Phnom_Penh Abu_Dhabi Gold_Coast""".split()
PEOPLE = """Anna Ben Clara David Emma Felix Greta Hugo Ines Jonas Karl Lena Marie Nora Oscar Paula Robert Sara Tom Ute Victor
Wendy Yara Zoe Alice Bob Carol Daniel Eve Frank Grace Henry Ivan Julia Kevin Laura Mike Nina Olga Peter Rosa Sam Tina Maria José
Ahmed Fatima Chen Mei Yuki Hiro Raj Priya John Jane Mary James Linda Lucas Mia Noah Liam Olivia Sophie Max""".split()
HELD_PEOPLE = "Aurora Bartholomew Cosima Dmitri Eloise Fitzgerald Guinevere Horatio Isolde Katarzyna Lysander Mahmoud Nikolai Ophelia".split()
NOUNS = """apple bread river mountain garden music movie book train car bike house school market weather football chess guitar piano
coffee tea cake soup pizza cheese fish dog cat horse bird forest lake beach island castle museum hotel flight ticket printer laptop
camera battery engine rocket robot satellite comet galaxy star volcano earthquake history poem novel painter singer actor king
queen president election economy bank money stock bitcoin recipe vitamin doctor hospital medicine sleep exercise yoga marathon
hockey tennis olympics winter summer holiday birthday wedding party meeting project report email password database server
compiler keyboard algorithm network tensor neural language dictionary grammar""".split()
HELD_NOUNS = """telescope violin submarine glacier cathedral umbrella sandwich helicopter philosophy democracy penguin orchestra
archaeology lighthouse microscope chocolate""".split()
ADJECTIVES = """red green old new best cheap fast quiet big small famous local modern ancient happy electric wooden good dark
simple free easy healthy funny strange wild""".split()
VERBS = "find buy build cook fix learn clean paint move open choose grow draw sell repair plan read write watch plant".split()


def city(rng, held=False):
    roll = rng.random()
    if held:
        return rng.choice(HELD_CITIES).replace("_", " ") if roll < 0.6 else made_up(rng, True)
    if roll < 0.25:
        return rng.choice(REAL_CITIES).replace("_", " ")
    if roll < 0.4:
        return rng.choice(COUNTRIES)[1].replace(", D.C.", "")
    if roll < 0.52:
        return rng.choice(["San", "Saint", "New", "Port", "El", "Santa", "North", "Old", "Los", "Fort", made_up(rng)]) + " " + made_up(rng)
    if roll < 0.56:
        return made_up(rng) + rng.choice(["-", " upon ", " de ", " am "]) + made_up(rng)
    return made_up(rng)


def person(rng, held=False):
    if held:
        return rng.choice(HELD_PEOPLE) if rng.random() < 0.6 else made_up(rng, True)
    return rng.choice(PEOPLE) if rng.random() < 0.4 else made_up(rng)


def phrase(rng, held=False):
    """A few words that mean something, or almost."""
    noun = rng.choice(HELD_NOUNS if held else NOUNS) if rng.random() < 0.75 else made_up(rng, held).lower()
    parts = rng.choice([[noun], [rng.choice(ADJECTIVES), noun], [rng.choice(ADJECTIVES), noun], [noun, rng.choice(NOUNS)],
                        [rng.choice(ADJECTIVES), noun, "in", city(rng, held)], [rng.choice(VERBS), "a", noun],
                        ["how to", rng.choice(VERBS), "a", noun], [noun, "and", rng.choice(NOUNS)]])
    return " ".join(parts)


def sentence(rng, held=False):
    noun = rng.choice(HELD_NOUNS if held else NOUNS)
    return rng.choice([
        f"I will be late", f"See you at {rng.randint(1, 12)}", f"the {noun} is {rng.choice(ADJECTIVES)}", f"I like the {noun}",
        f"where is the {noun}", f"we need a {rng.choice(ADJECTIVES)} {noun}", f"happy birthday {person(rng, held)}", "good morning",
        f"please {rng.choice(VERBS)} the {noun}", f"my {noun} is in {city(rng, held)}", f"call me about the {noun}", "thank you",
        f"dinner at {rng.randint(5, 9)} pm", f"I am in {city(rng, held)}", f"the {noun} and the {rng.choice(NOUNS)}"])


# ---------------------------------------------------------------- plain answers

def the(country):
    return "the Netherlands" if country == "Netherlands" else country


# (question, answer, thought, group), questions over country c, capital k; the last fifth is for the evaluation
def country_kinds(c, k, people, language, continent):
    c = the(c)
    bare = c.replace("the ", "")
    return {
        "capital": (f"The capital of {c} is {k}.", k, f"The user asks for the capital of {c}. It is {k}.", [
            f"What is the capital of {c}?", f"What's the capital of {c}?", f"capital of {bare}?", f"{bare} capital?",
            f"Which city is the capital of {c}?", f"Tell me the capital of {c}.", f"Name the capital of {c}.",
            f"The capital of {c} is", f"What is {c}'s capital?", f"What is the capital city of {c}?", f"{bare}'s capital?",
            f"Do you know the capital of {c}?", f"Can you tell me the capital of {c}?", f"What city is the capital of {c}?",
            f"I want to know the capital of {c}.", f"the capital of {c} please", f"What is the capital city in {c}?",
            f"Could you tell me what the capital of {c} is?", f"Which city is {c}'s capital?",
            f"Give me the capital of {c}.", f"Do you happen to know the capital of {c}?", f"Tell me which city is the capital of {c}."]),
        "population": (f"About {people} people live in {k}.", people, f"The user asks how many people live in {k}: {people}.", [
            f"How many people live in {k}?", f"What is the population of {k}?", f"population of {k}?", f"What's the population of {k}?",
            f"How big is {k}?", f"How many inhabitants does {k} have?", f"Tell me the population of {k}.", f"How large is {k}?",
            f"{k} population?", f"How many people are in {k}?", f"How many people are living in {k}?", f"Do you know the population of {k}?",
            f"How many residents does {k} have?", f"Tell me how many people live in {k}.", f"What population does {k} have?"]),
        "language": (f"People in {c} speak {language}.", language, f"The user asks for the language of {c}: {language}.", [
            f"What language do they speak in {c}?", f"Which language is spoken in {c}?", f"What do people speak in {c}?",
            f"What is the language of {c}?", f"language of {bare}?", f"Which languages do people speak in {c}?",
            f"What language is spoken in {c}?", f"What is the official language of {c}?", f"Tell me the language of {c}.",
            f"Which language do people in {c} speak?", f"Tell me which language they speak in {c}."]),
        "continent": (f"{c[0].upper() + c[1:]} is in {continent}.", continent, f"The user asks where {c} is: in {continent}.", [
            f"Where is {c}?", f"Which continent is {c} on?", f"On which continent is {c}?", f"What continent is {c} in?",
            f"In which continent is {c}?", f"Where can I find {c}?", f"Tell me where {c} is.", f"continent of {bare}?",
            f"Where in the world is {c}?", f"Tell me the continent of {c}."]),
        "country": (f"{k} is the capital of {c}.", bare, f"The user asks about {k}, the capital of {c}.", [
            f"Which country is {k} in?", f"Where is {k}?", f"What country is {k} in?", f"{k} is the capital of which country?",
            f"In which country is {k}?", f"What is {k}?", f"What country has {k} as its capital?", f"Tell me about {k}.",
            f"What country is {k} the capital of?", f"Tell me which country {k} is in."]),
    }


LONDON = {"population", "country"}  # London has two countries in the table; ask those of England only
UNKNOWN_COUNTRIES = """Mongolia Laos Nepal Bhutan Chad Niger Mali Gabon Togo Benin Malawi Zambia Angola Namibia Botswana Lesotho Fiji
Samoa Tonga Vanuatu Palau Nauru Belize Honduras Guatemala Panama Ecuador Bolivia Paraguay Uruguay Guyana Suriname Haiti Jamaica
Estonia Latvia Lithuania Slovenia Croatia Serbia Albania Moldova Georgia Armenia Azerbaijan Kazakhstan Uzbekistan Pakistan Qatar
Oman Yemen Syria Lebanon Jordan Libya Sudan Somalia Uganda Rwanda Tanzania""".split()
HELD_UNKNOWN = "Madagascar Mozambique Turkmenistan Tajikistan Liechtenstein Andorra Burundi Mauritania Senegal Slovakia".split()


def country_sample(rng, held, kinds=("capital",) * 5 + ("population",) * 2 + ("language", "continent", "country")):
    while True:
        row, kind = rng.choice(COUNTRIES), rng.choice(kinds)
        if not (row[0] == "the United Kingdom" and kind in LONDON):
            break
    answer, key, thought, asks = country_kinds(*row)[kind]
    return Sample("facts", [user(noise(rng, rng.choice(split(asks, held)), held))], answer, thought, accept=[key])


def fact_sample(rng, held):
    answer, asks = rng.choice(FACTS)
    thought = f"I know this one. {answer}"
    return Sample("facts", [user(noise(rng, rng.choice(split(asks, held)), held))], answer, thought)


def persona_sample(rng, held):
    answer, thought, asks = rng.choice(PERSONA[:8] if rng.random() < 0.5 else PERSONA)
    return Sample("persona", [user(noise(rng, rng.choice(split(asks, held, 8)), held))], answer, thought)


def candlewick_sample(rng, held):
    answer, asks = rng.choice(CANDLEWICK)
    thought = "The user asks about Candlewick. I know how it works."
    return Sample("candlewick", [user(noise(rng, rng.choice(split(asks, held, 8)), held))], answer, thought)


def small_fact_sample(rng, held):
    """Opposites, words in other languages, spelling, days, months, counting."""
    kind = rng.choice(["opposite", "word", "word", "spell", "day", "count", "count"])
    if kind == "opposite":
        a, b = rng.choice(OPPOSITES)
        if rng.random() < 0.3 and b not in ("old",):
            a, b = b, a
        if a == "old":
            b = "new"
        asks = [f"What is the opposite of {a}?", f"opposite of {a}?", f"What's the opposite of {a}?", f"Tell me the opposite of {a}.",
                f"The opposite of {a} is", f"What is the contrary of {a}?", f"Name the opposite of {a}.", f"Which word is the opposite of {a}?"]
        answer, thought = f"The opposite of {a} is {b}.", f"The user wants the opposite of {a}: {b}."
    elif kind == "word":
        language = rng.choice(list(LANGUAGES))
        i = rng.randrange(len(WORDS)) if rng.random() < 0.6 else rng.randrange(3)
        w, t = WORDS[i], LANGUAGES[language][i]
        asks = [f"Say {w} in {language}.", f"How do you say {w} in {language}?", f"What is {w} in {language}?", f"{w} in {language}?",
                f"Translate {w} to {language}.", f"What does {w} mean in {language}?", f'How do I say "{w}" in {language}?',
                f"What's the {language} word for {w}?", f"{language} for {w}?", f"Translate {w} into {language}.", f"Tell me how to say {w} in {language}."]
        answer, thought = f"{w.capitalize()} in {language} is: {t}.", f"The user wants {w} in {language}: {t}."
    elif kind == "spell":
        w = rng.choice(SPELL)
        s = "-".join(w).upper()
        if rng.random() < 0.3:
            asks = [f"How many letters are in {w}?", f"How many letters does {w} have?", f"How many letters in the word {w}?",
                    f"Count the letters in {w}.", f"How many letters has the word {w}?"]
            answer, thought = f"The word {w} has {NUMBERS[len(w)]} letters.", f"The letters are {s}. That makes {NUMBERS[len(w)]}."
        else:
            asks = [f"Spell {w}.", f"How do you spell {w}?", f"Can you spell {w}?", f"Spell the word {w}.", f"How is {w} spelled?",
                    f"Please spell {w} for me."]
            answer, thought = f"{w}: {s}", f"The user wants the letters of {w}."
    elif kind == "day":
        table, name, n = (DAYS, "day", 7) if rng.random() < 0.5 else (MONTHS, "month", 12)
        i = rng.randrange(n)
        side, j = ("after", (i + 1) % n) if rng.random() < 0.5 else ("before", (i - 1) % n)
        asks = [f"Which {name} comes {side} {table[i]}?", f"What {name} comes {side} {table[i]}?", f"What comes {side} {table[i]}?",
                f"What is the {name} {side} {table[i]}?", f"Which {name} is {side} {table[i]}?", f"Tell me the {name} {side} {table[i]}."]
        answer, thought = f"{table[j]} comes {side} {table[i]}.", f"The user asks what comes {side} {table[i]}: {table[j]}."
    else:
        n = rng.randint(2, 20)
        if rng.random() < 0.7:
            shown = rng.choice([str(n), NUMBERS[n]])
            asks = [f"Count to {shown}.", f"Count from 1 to {shown}.", f"Can you count to {shown}?", f"Count from one to {shown}.",
                    f"Count up to {shown}.", f"Please count to {shown} for me."]
            answer = ", ".join(str(i) for i in range(1, n + 1))
        else:
            n = rng.randint(2, 10)
            asks = [f"Count down from {n}.", f"Count backwards from {n}.", f"Can you count down from {n}?", f"Count from {n} to 1.",
                    f"Please count down from {n} for me."]
            answer = ", ".join(str(i) for i in range(n, 0, -1))
        thought = "The user wants me to count."
    return Sample("small facts", [user(noise(rng, rng.choice(split(asks, held)), held))], answer, thought)


def sum_sample(rng, held):
    """Small arithmetic; every pair is seen in training, the held-out part is the phrasing."""
    op = rng.choice("++--**")
    if op == "+":
        a, b = (rng.randint(0, 10), rng.randint(0, 10)) if rng.random() < 0.8 else (10 * rng.randint(1, 9), rng.randint(1, 9))
        r, word, verb = a + b, "plus", [f"Add {a} and {b}.", f"What is the sum of {a} and {b}?"]
    elif op == "-":
        b = rng.randint(0, 10)
        a = b + rng.randint(0, 10)
        r, word, verb = a - b, "minus", [f"Subtract {b} from {a}.", f"Take {b} away from {a}."]
    else:
        a, b = rng.randint(1, 10), rng.randint(1, 10)
        r, word, verb = a * b, "times", [f"Multiply {a} by {b}.", f"What is the product of {a} and {b}?"]
    asks = [f"{a}{op}{b}", f"{a} {op} {b}", f"{a}{op}{b}?", f"{a} {op} {b} = ?", f"{a}{op}{b}=", f"What is {a} {op} {b}?", f"What's {a}{op}{b}?",
            f"What is {a}{op}{b}?", f"What is {a} {word} {b}?", f"{a} {word} {b}?", f"How much is {a} {op} {b}?", f"How much is {a} {word} {b}?",
            f"Calculate {a} {op} {b}.", f"Compute {a} {word} {b}.", f"What does {a} {op} {b} make?", f"{NUMBERS[a]} {word} {NUMBERS[b]}" if max(a, b) <= 20 else f"{a} {word} {b}",
            f"What is {NUMBERS[a]} {word} {NUMBERS[b]}?" if max(a, b) <= 20 else f"{a} {word} {b}", *verb,
            f"What's {a} {word} {b}?", f"Can you work out {a} {op} {b}?", f"Tell me {a} {word} {b}.", f"What is the result of {a} {op} {b}?"]
    text = rng.choice(split(asks, held))
    text = text if rng.random() < 0.6 else noise(rng, text, held)
    return Sample("sums", [user(text)], f"{a} {op} {b} = {r}", f"{a} {word} {b} is {r}.", accept=[f"= {r}"])


def creative_sample(rng, held):
    kind = rng.choice(["story", "joke", "joke", "poem", "haiku", "haiku"])
    messages = []
    if kind == "haiku":
        topic = rng.choice(list(HAIKUS)) if rng.random() < 0.7 else phrase(rng, held)
        answer = HAIKUS.get(topic, HAIKU_OTHER)
        asks = [f"Write a haiku about {topic}.", f"A haiku about {topic}", f"haiku about {topic}", f"Give me a haiku about {topic}.",
                f"Can you write a haiku about {topic}?", f"Make a haiku about {topic}.", f"Please write me a haiku about {topic}."]
        return Sample("creative", [user(noise(rng, rng.choice(split(asks, held)), held))], answer, "The user wants a haiku: three short lines.")
    table, word, asks = {
        "story": (STORIES, "story", ["Tell me a story.", "Tell me a short story.", "Write a story.", "A story please", "Do you know a story?", "Can you tell me a story?", "Write me a short story.", "Give me a long answer.", "Tell me something long.", "I want to hear a story.", "Please tell a story."]),
        "joke": (JOKES, "joke", ["Tell me a joke.", "A joke please", "Do you know a joke?", "Can you tell me a joke?", "joke", "Make me laugh.", "Say something funny.", "Tell a joke", "Give me a joke.", "I want to hear a joke.", "Do you know any jokes?", "Please tell me a joke."]),
        "poem": (POEMS, "poem", ["Write a poem.", "Tell me a poem.", "A poem please", "Do you know a poem?", "Can you write a poem?", "Write me a short poem.", "Give me a poem.", "Recite a poem.", "I want a poem.", "Please write a poem for me."]),
    }[kind]
    more = [f"Another one", f"One more", f"Another {word}", f"Tell me another one.", "another", "more", f"Another {word} please", f"One more {word}", "Again", f"Do you have another {word}?"]
    n = rng.choice([0, 0, 0, 1, 1, 2, 3, 4]) % len(table)
    for i in range(n):
        messages += [user(noise(rng, rng.choice(split(asks if i == 0 else more, False)))), assistant(table[i])]
    messages.append(user(noise(rng, rng.choice(split(more if n else asks, held)), held)))
    return Sample("creative", messages, table[n], f"The user wants a {word}. I know one.")


# ---------------------------------------------------------------- not knowing

UNKNOWN = "I do not know. I am only a toy model. A bigger one may know: candlewick serve Qwen/Qwen2.5-0.5B-Instruct"
TOO_HARD = "That is too hard for a toy like me. Try a real model: candlewick serve Qwen/Qwen2.5-0.5B-Instruct"
NONSENSE = "I did not understand that. Could you say it in another way?"
NO_LIVE = "I cannot look that up. Give me a tool for it, and I will call it."


def unknown_sample(rng, held):
    kind = rng.choice(["open", "open", "open", "name", "name", "hard", "nonsense", "live"])
    p = lambda: phrase(rng, held)
    n = lambda: made_up(rng, held) if rng.random() < 0.6 else rng.choice(HELD_UNKNOWN if held else UNKNOWN_COUNTRIES + REAL_CITIES[:60])
    who = lambda: person(rng, held) + " " + made_up(rng, held)
    if kind == "open":
        year, noun = rng.randint(1200, 2030), rng.choice(HELD_NOUNS if held else NOUNS)
        asks = [f"Who invented the {noun}?", f"When was the {noun} invented?", f"How many {noun}s are there in the world?",
                f"What is the history of the {noun}?", f"Why is the {noun} {rng.choice(ADJECTIVES)}?", f"Explain {p()}.", f"What is {p()}?",
                f"How do I {rng.choice(VERBS)} a {noun}?", f"Who won the {noun} in {year}?", f"What happened in {year}?", f"Who is {who()}?",
                f"Who was {who()}?", f"Tell me about {p()}.", f"What do you think about {p()}?", f"Where can I {rng.choice(VERBS)} a {noun}?",
                f"Who wrote {made_up(rng, held)}?", f"What does {made_up(rng, held).lower()} mean?", f"How much does a {noun} cost?", f"How tall is {who()}?",
                f"How old is {who()}?", f"When did {who()} die?", f"What is the best {noun}?", f"Can you recommend a {noun}?", f"How does a {noun} work?",
                f"Who was the king of {n()} in {year}?", f"Which {noun} is the best?", f"Why do people like {p()}?", f"What is the difference between {p()} and {p()}?",
                f"What is a {made_up(rng, held).lower()}?", f"Who painted {made_up(rng, held)}?", f"Who is the president of {n()}?", f"What is the {noun} of {n()}?",
                f"Is a {noun} better than a {rng.choice(NOUNS)}?", f"When was {made_up(rng, held)} founded?", f"What do you know about {p()}?",
                f"Who discovered the {noun}?", f"What is the nicest {noun}?", f"How many people have a {noun}?", f"Tell me more about {p()}.", f"Where is the {noun} from?"]
        answer, thought = UNKNOWN, "I do not know this. I should say so."
    elif kind == "name":
        c = n()
        asks = [f"What is the capital of {c}?", f"What's the capital of {c}?", f"capital of {c}?", f"Which city is the capital of {c}?", f"Tell me the capital of {c}.",
                f"How many people live in {c}?", f"What is the population of {c}?", f"What language do they speak in {c}?", f"Where is {c}?", f"Name the capital of {c}.",
                f"Which continent is {c} on?", f"Which country is {c} in?", f"Who painted {c}?", f"Who wrote {c}?", f"What is {c}?", f"What is the chemical symbol for {c.lower()}?",
                f"What does a {c.lower()} say?", f"What colour is a {c.lower()}?", f"How many legs does a {c.lower()} have?",
                f"What is the capital city of {c}?", f"Do you know the capital of {c}?", f"What is the language of {c}?", f"How big is {c}?", f"What city is the capital of {c}?"]
        answer, thought = UNKNOWN, "I do not know this name. I should say so."
    elif kind == "hard":
        noun, lang = rng.choice(HELD_NOUNS if held else NOUNS), rng.choice(["Python", "Rust", "C", "Java", "JavaScript", "Go", "SQL", "Haskell"])
        asks = [f"Write a {lang} program that {rng.choice(VERBS)}s a {noun}.", f"Write {lang} code for a {noun}.", f"Write an essay about {p()}.", f"Summarize this text: {sentence(rng, held)}.",
                f"Translate {sentence(rng, held)} to {rng.choice(TARGETS)}.", f"What is {rng.randint(100, 9999)} * {rng.randint(100, 9999)}?", f"What is {rng.randint(21, 999)} / {rng.randint(11, 99)}?", f"Solve x^2 + {rng.randint(2, 99)}x = {rng.randint(2, 99)}.",
                f"Plan a trip to {city(rng, held)} for me.", f"Write a letter to {person(rng, held)} about the {noun}.", f"Draw a {noun}.", f"Fix this {lang} code: {made_up(rng).lower()}();",
                f"What is the square root of {rng.randint(17, 999)}?", f"Write a song about {p()}.", f"Give me a recipe for {noun}.", f"Write a function in {lang} to sort a list.",
                f"Implement a {noun} in {lang}.", f"Write me a {lang} script for {p()}.", f"Compose an email about {p()}.", f"What is {rng.randint(100, 999)} + {rng.randint(100, 999)}?"]
        answer, thought = TOO_HARD, "This is too hard for me. I should say so."
    elif kind == "live":
        c = city(rng, held)
        asks = [f"What is the weather in {c}?", f"What's the weather like in {c}?", f"weather in {c}", f"Is it raining in {c}?", f"How is the weather in {c} today?", f"What is the weather today?",
                "What time is it?", f"What time is it in {c}?", "What is the date today?", "What day is it today?", f"What is the stock price of {made_up(rng, held)}?", "What is the latest news?",
                f"Search the web for {p()}.", f"Send an email to {person(rng, held)}.", f"Set a timer for {rng.randint(2, 59)} minutes.", f"Play some music.", f"What is the temperature in {c}?",
                "What is the news today?", f"Turn on the light.", f"Tell me the weather in {c}.", f"Will it rain in {c} tomorrow?", f"What's the time in {c}?"]
        answer, thought = NO_LIVE, "I would need a tool for this, and I have none."
    else:
        letters = "abcdefghijklmnopqrstuvwxyz"
        mash = lambda: "".join(rng.choice(letters) for _ in range(rng.randint(3, 10)))
        asks = [mash(), mash() + " " + mash(), made_up(rng, held).lower() + " " + made_up(rng, held).lower(), rng.choice("asdf qwer jkl; dfgh sdfg zxcv".split()) + mash(),
                "?", "???", "...", mash() + "?", " ".join(made_up(rng, held).lower() for _ in range(3)), rng.choice("bcdfgjklmnpqrstvxz"), "😀", "!!!", "-", "🎉🎉", str(rng.randint(100, 99999)),
                made_up(rng, held).lower() + "?", made_up(rng, held).lower(), mash() + mash()]
        answer, thought = NONSENSE, "I do not understand this."
        return Sample("unknown", [user(rng.choice(asks))], answer, thought, accept=["not"])
    asks = [a.replace("ss are", "s are") for a in asks]
    return Sample("unknown", [user(noise(rng, rng.choice(split(asks, held)), held))], answer, thought, accept=["not", "too hard"] if kind == "hard" else ["not"])


# ---------------------------------------------------------------- follow-ups

def follow_sample(rng, held):
    while True:
        row = rng.choice(COUNTRIES)
        if row[0] != "the United Kingdom":
            break
    table = country_kinds(*row)
    first = rng.choice(["capital", "capital", "capital", "population", "language", "continent", "country"])
    answer, _, _, asks = table[first]
    messages = [user(noise(rng, rng.choice(split(asks, False)))), assistant(answer)]
    other = rng.choice(COUNTRIES[:-1])
    o, k = the(other[0]), other[1]
    options = {
        "population": ["How many people live there?", "how many people live there", "What is its population?", "And how many people live there?", "What is the population?", "How big is it?", "How many inhabitants does it have?",
                       "and the population?", "And its population?", "How many live there?", "How many people are there?", "Population?", "How large is the city?", "What about its population?", "And how big is the city?"],
        "language": ["What language do they speak there?", "Which language is spoken there?", "What do people speak there?", "And the language?", "What language do people speak there?", "And what do they speak there?",
                     "What is the language there?", "Which language do they speak?"],
        "continent": ["Which continent is that on?", "On which continent is it?", "Which continent is it in?", "Where is that?", "What continent is that?", "And the continent?", "And on which continent is that?"],
        "capital": ["What is its capital?", "And the capital?", "What is the capital?", "Which city is its capital?", "What is the capital there?", "and its capital?", "And what is its capital?"],
    }
    kind = rng.choice(["population"] * 4 + ["language", "continent", "capital", "other", "other"])
    if kind == "capital" and first == "capital":
        kind = "population"
    if kind == "population" and first in ("population",):
        kind = "language"
    if kind == "other":
        asks = [f"And of {o}?", f"And {o}?", f"What about {o}?", f"and for {o}?", f"How about {o}?", f"And what about {o}?"]
        if first in ("population", "country"):
            asks = [a.replace(o, k) for a in asks]
        answer, key, thought, _ = country_kinds(*other)[first]
    else:
        asks = options[kind]
        answer, key, thought, _ = table[kind]
    text = noise(rng, rng.choice(split(asks, held)), held)
    if rng.random() < 0.25:
        extra = rng.choice([("Thanks!", "You are welcome!"), ("Ok", "Good. What would you like to know?")])
        return Sample("follow-up", messages + [user(text), assistant(answer), user(noise(rng, extra[0]))], extra[1], "The user is polite.")
    sample = Sample("follow-up", messages + [user(text)], answer, thought, accept=[key])
    if rng.random() < 0.2 and kind != "other":  # a third turn
        kind = rng.choice([k for k in options if k not in (kind, first)])
        sample.messages += [assistant(answer), user(noise(rng, rng.choice(split(options[kind], held)), held))]
        sample.answer, key, sample.thought, _ = table[kind]
        sample.accept = [key]
    return sample


def memory_sample(rng, held):
    """The user tells a name, a town, a pet, and asks for it later."""
    name, place, pet, like = person(rng, held), city(rng, held), person(rng, held), rng.choice(HELD_NOUNS if held else NOUNS)
    animal = rng.choice(["dog", "cat", "horse", "bird", "fish", "sister", "brother", "friend"])
    names = [f"My name is {name}.", f"I am {name}.", f"I'm {name}", f"Hi, I am {name}.", f"Hello, my name is {name}!", f"Call me {name}.", f"hi, my name is {name}", f"You can call me {name}."]
    # (what the user tells, the reply, the questions later, their answer)
    told = [(names, f"Nice to meet you, {name}!", ["What is my name?", "What's my name?", "Do you remember my name?", "Who am I?", "Tell me my name.", "what is my name", "Do you know my name?", "Can you tell me my name?"],
             f"Your name is {name}.")]
    if rng.random() < 0.4:
        told.append(([f"I live in {place}.", f"I live in {place}", f"My home is in {place}.", f"I am living in {place}.", f"i live in {place}"], f"{place} sounds nice!",
                     ["Where do I live?", "Do you know where I live?", "Which city do I live in?", "where do i live", "Tell me where I live."], f"You live in {place}."))
    if rng.random() < 0.4:
        told.append(([f"My {animal} is called {pet}.", f"The name of my {animal} is {pet}.", f"I have a {animal} called {pet}.", f"I have a {animal} named {pet}.", f"My {animal}'s name is {pet}."], f"{pet} is a nice name!",
                     [f"What is my {animal} called?", f"What is the name of my {animal}?", f"What's my {animal}'s name?", f"Do you remember the name of my {animal}?", f"How is my {animal} called?"], f"Your {animal} is called {pet}."))
    if rng.random() < 0.25:
        told.append(([f"I like {like}.", f"I really like {like}", f"My favourite thing is {like}.", f"I love {like}."], "That is good to know.",
                     ["What do I like?", "Do you remember what I like?", "what do i like", "Tell me what I like."], f"You like {like}."))
    if rng.random() < 0.3:
        told = told[1:] or told
    rng.shuffle(told)
    if rng.random() < 0.25:
        tell, reply, _, _ = told[0]
        return Sample("memory", [user(rng.choice(split(tell, held)))], reply, "The user tells me something.")
    chosen = [rng.choice(split(tell, held)) for tell, *_ in told]
    if len(told) > 1 and rng.random() < 0.4:  # all in one sentence, answered by the first
        messages = [user(" ".join(t if t[-1] in ".!" else t + "." for t in chosen)), assistant(told[0][1])]
    else:
        messages = [m for text, (_, reply, _, _) in zip(chosen, told) for m in (user(text), assistant(reply))]
    for _ in range(rng.choice([0, 0, 1, 2])):
        past = rng.choice([country_sample, fact_sample, sum_sample])(rng, False)
        messages += past.messages + [assistant(past.answer)]
    _, _, asks, answer = rng.choice(told)
    return Sample("memory", messages + [user(noise(rng, rng.choice(split(asks, held)), held))], answer, f"The user told me. {answer}")


def repeat_sample(rng, held):
    text = rng.choice([made_up(rng, held), sentence(rng, held), phrase(rng, held), " ".join(made_up(rng, held).lower() for _ in range(3)), city(rng, held), str(rng.randint(0, 99999))])
    asks = [f"Repeat after me: {text}", f"Say: {text}", f"Repeat: {text}", f"Repeat this: {text}", f'Say "{text}"', f"Please repeat: {text}", f"Echo: {text}", f"Say exactly: {text}"]
    return Sample("repeat", [user(rng.choice(split(asks, held)))], text, "The user wants me to repeat something.")


# ---------------------------------------------------------------- JSON

KEYS = """name age city country title author year price color size email id status count language score level type animal food job
team street zip phone date time weight height brand model category rating""".split()
HELD_KEYS = "username quantity planet genre currency address".split()


def json_sample(rng, held):
    kind = rng.choice(["capital", "capital", "object", "object", "object", "extract", "list", "system"])
    accept = []
    row = rng.choice(COUNTRIES)
    c, k = the(row[0]), row[1]
    if kind == "capital":
        keys = rng.choice([["city", "country"], ["country", "capital"], ["capital"], ["country", "city"], ["capital", "country"], ["answer"]])
        value = {key: c.replace("the ", "") if key == "country" else k for key in keys}
        named = " and ".join(keys) if rng.random() < 0.7 else ", ".join(f'"{x}"' for x in keys)
        plural = "key" if len(keys) == 1 else "keys"
        q = rng.choice([f"What is the capital of {c}?", f"capital of {c.replace('the ', '')}?", f"Tell me the capital of {c}."])
        asks = [f"{q} Answer as JSON with the {plural} {named}.", f"{q} Answer in JSON with {plural} {named}.", f"{q} Reply as JSON with {plural} {named}.", f"{q} Give JSON with {plural} {named}.",
                f"Give me the capital of {c} as JSON with {plural} {named}.", f"{q} Use JSON with the {plural} {named}.", f"In JSON with {plural} {named}: {q}", f"{q} JSON, {plural} {named}.",
                f"{q} Respond in JSON with the {plural} {named}."]
        if rng.random() < 0.3:
            value = {"capital": k}
            asks = [f"{q} Answer in JSON.", f"{q} Answer as JSON.", f"{q} Reply in JSON.", f"Give me the capital of {c} as JSON.", f"In JSON: {q}", f"{q} JSON please.", f"{q} Respond with JSON.", f"{q} Use JSON."]
        messages = [user(rng.choice(split(asks, held)))]
    elif kind == "object":
        n = rng.choice([1, 2, 2, 2, 3])
        keys = ["name", "age"] if rng.random() < 0.2 else rng.sample(HELD_KEYS + KEYS[:4] if held else KEYS, n)
        values = [rng.randint(1, 99) if key in ("age", "year", "count", "id", "score", "level", "price", "quantity", "zip", "size", "rating", "height", "weight")
                  else rng.choice([person, city, lambda r, h: phrase(r, h).split(" ")[0], made_up])(rng, held) for key in keys]
        value = dict(zip(keys, values))
        named, given = " and ".join(keys) if n < 3 else ", ".join(keys[:-1]) + " and " + keys[-1], ", ".join(str(v) for v in values)
        pairs = ", ".join(f"{a} {b}" for a, b in value.items())
        asks = [f"Give me a JSON object with {named} for {given}", f"Give me a JSON object with {named} for {given}.", f"Write a JSON object with {named}: {given}", f"Make JSON with {named} for {given}.",
                f"JSON with {named}: {given}", f"Create a JSON object: {pairs}", f"Write this as JSON: {pairs}", f"Turn this into JSON: {pairs}.", f"As JSON: {pairs}", f"{pairs} as JSON",
                f"Please write a JSON object with {named} for {given}.", f"Convert to JSON: {pairs}"]
        messages = [user(rng.choice(split(asks, held)))]
    elif kind == "extract":
        name, age, town = person(rng, held), rng.randint(1, 99), city(rng, held)
        facts = rng.choice([({"name": name, "age": age}, [f"{name} is {age} years old.", f"{name} is {age}.", f"My friend {name} is {age} years old."]),
                            ({"name": name, "city": town}, [f"{name} lives in {town}.", f"{name} is from {town}.", f"My friend {name} lives in {town}."]),
                            ({"name": name, "age": age, "city": town}, [f"{name} is {age} years old and lives in {town}.", f"{name}, {age}, lives in {town}.", f"{name} from {town} is {age} years old."])])
        value, text = facts[0], rng.choice(facts[1])
        named = " and ".join(value) if len(value) < 3 else "name, age and city"
        asks = [f"Extract the {named} as JSON: {text}", f"{text} Give me the {named} as JSON.", f"Extract {named} as JSON. {text}", f"{text} Extract the {named} as JSON.", f"JSON with {named}: {text}",
                f"Return the {named} as JSON: {text}"]
        messages = [user(rng.choice(split(asks, held)))]
    elif kind == "list":
        n = rng.randint(2, 8)
        value, asks = rng.choice([
            (list(range(1, n + 1)), [f"Give me a JSON list of the numbers from 1 to {n}.", f"The numbers from 1 to {n} as a JSON list", f"JSON array with the numbers 1 to {n}", f"Write a JSON array of the numbers 1 to {n}.", f"A JSON list with the numbers from 1 to {n}."]),
            (["red", "green", "blue"], ["Give me a JSON list of three colours.", "Three colors as a JSON array", "JSON list of 3 colours", "Write a JSON array of three colors.", "List three colors in JSON."]),
            (DAYS, ["Give me a JSON list of the days of the week.", "The days of the week as a JSON array", "JSON list of the weekdays", "List the days of the week as JSON.", "The days of the week in JSON."])])
        messages = [user(rng.choice(split(asks, held)))]
    else:
        base = country_sample(rng, held, ("capital",)) if rng.random() < 0.6 else fact_sample(rng, held)
        rule = rng.choice(["Answer only in JSON.", "Reply in JSON.", "You always answer with a JSON object.", "Respond with JSON only.", "Output JSON.", 'Answer as JSON with the key "answer".', "You are a helpful assistant. Answer in JSON."])
        value = {"answer": base.accept[0] if base.accept else base.answer}
        messages = [{"role": "system", "content": rule}] + base.messages
    return Sample("json", messages, json.dumps(value, ensure_ascii=False), "The user wants JSON.")


# ---------------------------------------------------------------- tools

def prop(rng, kind, text, **more):
    """One parameter's schema, with the keys in the order some client would write them."""
    items = [("type", kind)]
    if rng.random() < 0.6:
        items.append(("description", text))
    if rng.random() < 0.12:
        items.append(("title", text.split(" ")[-1].capitalize()))
    items += list(more.items())
    if rng.random() < 0.3:
        rng.shuffle(items)
    return dict(items)


def tool(rng, name, text, properties, required=None):
    """A tool as OpenAI clients send it."""
    required = list(properties) if required is None else required
    schema = [("type", "object"), ("properties", properties), ("required", required)]
    if rng.random() < 0.15:
        schema.append(("additionalProperties", False))
    if rng.random() < 0.08:
        schema.pop(2)
    if rng.random() < 0.25:
        rng.shuffle(schema)
    body = [("name", name), ("description", text), ("parameters", dict(schema))]
    if rng.random() < 0.06:
        body.append(("strict", True))
    if rng.random() < 0.08:
        body.pop(1)
    if rng.random() < 0.25:
        rng.shuffle(body)
    function = [("type", "function"), ("function", dict(body))]
    if rng.random() < 0.1:
        function.reverse()
    return dict(function)


def weather(rng, held):
    c = city(rng, held)
    key = rng.choice(["city", "city", "location", "location", "place", "town"])
    name = rng.choice(["get_weather", "get_weather", "get_weather", "get_current_weather", "weather", "current_weather", "get_forecast", "lookup_weather", "weather_in", "getWeather"])
    properties = {key: prop(rng, "string", rng.choice([f"The {key}", f"Name of the {key}", "The city name", "City name, e.g. Paris", "The city and state, e.g. San Francisco, CA", "A city"]))}
    args, unit, required, tail = {key: c}, None, [key], ""
    if rng.random() < 0.4:
        unit = rng.choice(["unit", "unit", "units", "format"])
        properties[unit] = prop(rng, "string", "The temperature unit", enum=rng.choice([["celsius", "fahrenheit"], ["celsius", "fahrenheit"], ["fahrenheit", "celsius"]]))
        if rng.random() < 0.4:
            u = rng.choice(["celsius", "fahrenheit"])
            tail = rng.choice([f" in {u}", f" in {u.capitalize()}", f", in {u}", f" in degrees {u.capitalize()}"])
            args[unit] = u
        elif rng.random() < 0.3:
            required.append(unit)
            args[unit] = "celsius"
    if rng.random() < 0.06:
        args[key] = c = c + ", " + rng.choice([rng.choice(COUNTRIES)[0].replace("the ", ""), "CA", "TX", "NY", made_up(rng, held)])
    shown = c
    if rng.random() < 0.08:
        shown = c.lower()
        args[key] = shown
    asks = [f"What is the weather in {shown}{tail}?", f"What's the weather in {shown}{tail}?", f"What's the weather like in {shown}{tail}?", f"weather in {shown}{tail}", f"Weather in {shown}{tail}?",
            f"How is the weather in {shown}{tail}?", f"How's the weather in {shown} today{tail}?", f"What is the weather like in {shown} today{tail}?", f"Tell me the weather in {shown}{tail}.",
            f"What is the temperature in {shown}{tail}?", f"How warm is it in {shown}{tail}?", f"{shown} weather{tail}", f"Give me the weather for {shown}{tail}.", f"What will the weather be in {shown}{tail}?",
            f"Can you check the weather in {shown}{tail}?", f"I am in {shown}. What is the weather{tail}?", f"Is it raining in {shown}?" if not tail else f"How hot is it in {shown}{tail}?",
            f"Show me the weather in {shown}{tail}.", f"Check the weather for {shown}{tail}", f"Do I need an umbrella in {shown}?" if not tail else f"Temperature in {shown}{tail}?",
            f"How cold is it in {shown}{tail}?", f"What's the forecast for {shown}{tail}?", f"Please get me the weather in {shown}{tail}.", f"Could you tell me the weather in {shown}{tail}?", f"What is it like outside in {shown}{tail}?"]
    t = tool(rng, name, rng.choice(["Get the weather for a city", "Get the current weather in a given location", "Get current weather", "Returns the weather", "Get the weather", "Look up the weather in a city.", "Get current temperature for a given location."]), properties, required)
    return name, t, args, asks


def clock(rng, held):
    c, key = city(rng, held), rng.choice(["city", "location", "place", "timezone"])
    name = rng.choice(["get_time", "get_current_time", "current_time", "time_in", "clock", "get_local_time"])
    asks = [f"What time is it in {c}?", f"What's the time in {c}?", f"time in {c}", f"Tell me the time in {c}.", f"Current time in {c}?", f"What is the local time in {c}?", f"How late is it in {c}?",
            f"Do you know the time in {c}?", f"What is the current time in {c}?", f"Can you tell me what time it is in {c}?"]
    return name, tool(rng, name, rng.choice(["Get the current time", "Get the time in a city", "Returns the local time", "Current time for a place"]), {key: prop(rng, "string", f"The {key}")}), {key: c}, asks


def arithmetic(rng, held):
    big = lambda: rng.choice([rng.randint(0, 99), rng.randint(10, 999), rng.randint(100, 9999)])
    a, b = big(), big()
    if rng.random() < 0.4:
        op = rng.choice("+-*/")
        key, name, e = rng.choice(["expression", "expr", "formula"]), rng.choice(["calculator", "calculate", "calc", "evaluate", "math"]), f"{a} {op} {b}"
        asks = [f"What is {e}?", f"Calculate {e}.", f"What's {e}?", f"Compute {e}", f"{e}", f"How much is {e}?", f"{e} = ?", f"Use the calculator: {e}", f"Work out {e}.", f"Please calculate {e}."]
        return name, tool(rng, name, rng.choice(["Evaluate an arithmetic expression", "A calculator", "Calculate a math expression"]), {key: prop(rng, "string", "The expression, e.g. 2 + 2")}), {key: e}, asks
    name, asks, text = rng.choice([
        (["add", "add_numbers", "sum", "plus"], [f"What is {a} + {b}?", f"Add {a} and {b}.", f"What is {a} plus {b}?", f"{a} + {b}", f"{a}+{b}?", f"What is the sum of {a} and {b}?", f"Please add {a} and {b}.", f"Calculate {a} plus {b}."], "Add two numbers"),
        (["multiply", "times", "multiply_numbers", "product"], [f"What is {a} * {b}?", f"Multiply {a} by {b}.", f"What is {a} times {b}?", f"{a} * {b}", f"What is the product of {a} and {b}?", f"Multiply {a} and {b}", f"Please multiply {a} by {b}.", f"Calculate {a} times {b}."], "Multiply two numbers"),
        (["subtract", "minus"], [f"What is {a} - {b}?", f"What is {a} minus {b}?", f"{a} - {b}", f"Compute {a} minus {b}.", f"Calculate {a} - {b}.", f"Please compute {a} - {b}."], "Subtract b from a"),
    ])
    name, kind, (x, y) = rng.choice(name), rng.choice(["number", "integer"]), rng.choice([("a", "b"), ("a", "b"), ("x", "y"), ("first", "second")])
    return name, tool(rng, name, text, {x: prop(rng, kind, "The first number"), y: prop(rng, kind, "The second number")}), {x: a, y: b}, asks


def search(rng, held):
    q, key = phrase(rng, held), rng.choice(["query", "query", "q", "text", "search_query"])
    name = rng.choice(["search", "web_search", "search_web", "google", "find", "lookup", "search_internet"])
    asks = [f"Search for {q}", f"Search the web for {q}.", f"Look up {q}", f"Google {q}", f"Find information about {q}", f"Search {q}", f"Look up {q} on the web.", f"Please search for {q}", f"Do a web search for {q}.",
            f"Can you search for {q}?", f"Please look up {q}.", f"Search the internet for {q}"]
    return name, tool(rng, name, rng.choice(["Search the web", "Search the internet for information", "Look something up", "Web search"]), {key: prop(rng, "string", "The search query")}), {key: q}, asks


def message(rng, held):
    p, s = person(rng, held), sentence(rng, held)
    to, text = rng.choice(["to", "to", "recipient", "name", "contact"]), rng.choice(["text", "text", "message", "body", "content"])
    if rng.random() < 0.25:
        p = p.lower() + "@" + rng.choice(["example.com", "mail.com", "example.org", made_up(rng).lower() + ".com"])
    kind = rng.choice(["message", "email", "text"])
    name = {"message": ["send_message", "message", "send"], "email": ["send_email", "email", "mail"], "text": ["send_sms", "send_text", "sms"]}[kind]
    name = rng.choice(name)
    asks = [f"Send a {kind} to {p}: {s}", f"Send {p} a {kind}: {s}", f"Write to {p}: {s}", f"Send a {kind} to {p} saying {s}", f'Send a {kind} to {p} that says "{s}"', f"Tell {p}: {s}", f"Please send {p} a {kind} saying {s}",
            f"Message {p}: {s}", f"Send this to {p}: {s}", f"Please send a {kind} to {p}: {s}"]
    asks = [a.replace("a email", "an email") for a in asks]
    return name, tool(rng, name, rng.choice([f"Send a {kind}", f"Send a {kind} to a person", f"Sends a {kind} to someone"]), {to: prop(rng, "string", "Who gets it"), text: prop(rng, "string", "What to say")}), {to: p, text: s}, asks


TARGETS = "French German Spanish Italian Portuguese Dutch Swedish Japanese Chinese Korean Arabic Russian Polish Turkish Greek Hindi".split()


def translate(rng, held):
    s, language = rng.choice([sentence, phrase])(rng, held), rng.choice(TARGETS)
    text, target = rng.choice(["text", "text", "sentence", "input"]), rng.choice(["language", "target_language", "to", "target"])
    name = rng.choice(["translate", "translate_text", "translator"])
    asks = [f"Translate {s} to {language}", f"Translate '{s}' into {language}", f'Translate "{s}" to {language}.', f'How do you say "{s}" in {language}?', f"Translate to {language}: {s}", f"Translate into {language}: {s}",
            f'Please translate "{s}" to {language}.', f'What is "{s}" in {language}?', f"Say '{s}' in {language}."]
    return name, tool(rng, name, rng.choice(["Translate text", "Translate a text to another language", "Translates text"]), {text: prop(rng, "string", "The text"), target: prop(rng, "string", "The target language")}), {text: s, target: language}, asks


def timer(rng, held):
    n, unit = rng.randint(1, 120), rng.choice(["minutes", "minutes", "seconds"])
    key = rng.choice([unit, unit, f"duration_{unit}", "duration"])
    name = rng.choice(["set_timer", "set_timer", "timer", "start_timer", "set_alarm"])
    asks = [f"Set a timer for {n} {unit}.", f"Set a {n} {unit[:-1]} timer", f"timer {n} {unit}", f"Start a timer of {n} {unit}", f"Wake me in {n} {unit}", f"Remind me in {n} {unit}.", f"Timer for {n} {unit} please", f"Please set a timer for {n} {unit}.",
            f"Can you set a timer for {n} {unit}?", f"I need a timer for {n} {unit}."]
    return name, tool(rng, name, rng.choice(["Set a timer", "Start a timer", f"Set a timer in {unit}"]), {key: prop(rng, rng.choice(["integer", "number"]), f"Number of {unit}")}), {key: n}, asks


SYMBOLS = {"Apple": "AAPL", "Microsoft": "MSFT", "Google": "GOOG", "Amazon": "AMZN", "Tesla": "TSLA", "Nvidia": "NVDA"}


def stock(rng, held):
    key = rng.choice(["symbol", "symbol", "ticker", "stock"])
    name = rng.choice(["get_stock_price", "get_stock_price", "stock_price", "get_quote", "stock"])
    if rng.random() < 0.4:
        shown, symbol = rng.choice(list(SYMBOLS.items()))
    else:
        shown = symbol = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 5)))
    asks = [f"What is the stock price of {shown}?", f"stock price of {shown}", f"How much is {shown} stock?", f"What's {shown} trading at?", f"Get the price of {shown}.", f"{shown} stock price?", f"What is the price of {shown}?",
            f"Price of {shown} shares?", f"Tell me the stock price of {shown}.", f"What is the current stock price of {shown}?"]
    return name, tool(rng, name, rng.choice(["Get the stock price", "Get the current price of a stock", "Stock quote"]), {key: prop(rng, "string", "The ticker symbol, e.g. AAPL")}), {key: symbol}, asks


def news(rng, held):
    q, key = rng.choice(HELD_NOUNS if held else NOUNS), rng.choice(["topic", "subject", "query", "about"])
    name = rng.choice(["get_news", "news", "latest_news"])
    asks = [f"What is the news about {q}?", f"News about {q}", f"Get the latest news about {q}.", f"Show me news on {q}", f"latest {q} news", f"Tell me the news about {q}.", f"Any news about {q}?"]
    return name, tool(rng, name, rng.choice(["Get the news", "Latest news about a topic"]), {key: prop(rng, "string", f"The {key}")}), {key: q}, asks


def music(rng, held):
    s, key = made_up(rng, held) + " " + rng.choice(HELD_NOUNS if held else NOUNS), rng.choice(["song", "title", "track", "name"])
    name = rng.choice(["play_music", "play_song", "play", "music"])
    asks = [f"Play {s}", f"Play the song {s}.", f"Put on {s}", f"I want to hear {s}", f"Start playing {s}", f"Please play {s}."]
    return name, tool(rng, name, rng.choice(["Play music", "Play a song"]), {key: prop(rng, "string", "The song")}), {key: s}, asks


def room(rng, held):
    r = rng.choice(["kitchen", "bedroom", "living room", "bathroom", "office", "garage", "hall", "garden", made_up(rng, held).lower()])
    if rng.random() < 0.5:
        name, d = rng.choice(["set_temperature", "set_thermostat"]), rng.randint(15, 28)
        key = rng.choice(["temperature", "degrees", "value"])
        asks = [f"Set the {r} to {d} degrees.", f"Make the {r} {d} degrees", f"Set the temperature in the {r} to {d}.", f"Heat the {r} to {d} degrees", f"Put the {r} at {d} degrees", f"Please set the {r} to {d} degrees."]
        return name, tool(rng, name, "Set the temperature of a room", {"room": prop(rng, "string", "The room"), key: prop(rng, "number", "Degrees")}), {"room": r, key: d}, asks
    name, state = rng.choice(["set_light", "light", "switch_light"]), rng.choice(["on", "off"])
    asks = [f"Turn {state} the light in the {r}.", f"Turn the {r} light {state}", f"Switch {state} the {r} light", f"Light {state} in the {r}", f"{r} light {state}", f"Please turn {state} the light in the {r}."]
    return name, tool(rng, name, "Switch a light", {"room": prop(rng, "string", "The room"), "state": prop(rng, "string", "The state", enum=["on", "off"])}), {"room": r, "state": state}, asks


def convert(rng, held):
    codes = ["USD", "EUR", "GBP", "JPY", "CHF", "CAD", "SEK"]
    a, (x, y) = rng.randint(1, 999), rng.sample(codes, 2)
    f, t = rng.choice([("from", "to"), ("from_currency", "to_currency"), ("source", "target")])
    name = rng.choice(["convert_currency", "convert", "exchange"])
    asks = [f"Convert {a} {x} to {y}.", f"How much is {a} {x} in {y}?", f"{a} {x} to {y}", f"What is {a} {x} in {y}?", f"Change {a} {x} to {y}", f"Please convert {a} {x} into {y}."]
    return name, tool(rng, name, "Convert money", {"amount": prop(rng, "number", "The amount"), f: prop(rng, "string", "From"), t: prop(rng, "string", "To")}), {"amount": a, f: x, t: y}, asks


def nothing(rng, held):
    """A tool without parameters."""
    name, text, asks = rng.choice([
        (["get_date", "get_current_date", "today"], "Get the date of today", ["What is the date today?", "What day is it today?", "Which date is it?", "today's date?", "What is today's date?", "Tell me the date."]),
        (["get_time", "get_current_time", "now"], "Get the current time", ["What time is it?", "What time is it now?", "Tell me the time.", "What's the time?", "time?", "Do you know what time it is?"]),
        (["roll_dice", "roll_die", "dice"], "Roll a die", ["Roll a die.", "Roll the dice", "Throw a die", "Roll a dice for me.", "Please roll a die."]),
        (["flip_coin", "toss_coin", "coin"], "Flip a coin", ["Flip a coin.", "Toss a coin", "Heads or tails?", "Flip a coin for me", "Please flip a coin."]),
        (["get_location", "where_am_i", "get_user_location"], "Get the location of the user", ["Where am I?", "What is my location?", "Find my location", "Which city am I in?", "Tell me where I am."]),
        (["list_files", "ls"], "List the files", ["List the files.", "Which files are there?", "Show me the files", "list files", "What files do I have?"]),
    ])
    name = rng.choice(name)
    t = tool(rng, name, text, {}, [])
    if rng.random() < 0.3:
        t["function"]["parameters"] = {"type": "object", "properties": {}}
    return name, t, {}, asks


def event(rng, held):
    """Three parameters."""
    title, day, hour = phrase(rng, held), rng.choice(DAYS), rng.randint(1, 12)
    a, b, c = rng.choice([("title", "day", "hour"), ("name", "date", "time"), ("event", "day", "time")])
    name = rng.choice(["create_event", "add_event", "schedule", "book_meeting"])
    asks = [f"Add {title} on {day} at {hour}.", f"Schedule {title} on {day} at {hour}", f"Create an event {title} on {day} at {hour}", f"Put {title} in my calendar on {day} at {hour}", f"Plan {title} for {day} at {hour}.", f"Please schedule {title} for {day} at {hour}."]
    return name, tool(rng, name, "Add an event to the calendar", {a: prop(rng, "string", "What it is"), b: prop(rng, "string", "The day"), c: prop(rng, "integer", "The hour")}), {a: title, b: day, c: hour}, asks


def anything(rng, held):
    """A tool with a name nobody has seen, called by its name or by the words in it."""
    verb = rng.choice("get find lookup fetch check open read load show delete create update book order list track".split())
    noun = rng.choice(HELD_NOUNS if held else NOUNS)
    name = rng.choice([f"{verb}_{noun}", f"{verb}_{noun}", f"{noun}_{verb}", f"{verb}{noun.capitalize()}"])
    key = rng.choice(HELD_KEYS + ["name", "id"] if held else KEYS)
    number = key in ("age", "year", "count", "id", "score", "level", "price", "quantity", "zip", "size", "rating")
    value = rng.randint(1, 9999) if number else rng.choice([person, city, made_up])(rng, held)
    asks = [f"{verb.capitalize()} the {noun} with {key} {value}.", f"{verb.capitalize()} {noun} {value}", f"Call {name} with {value}.", f"Use {name} for {value}", f"{verb.capitalize()} the {noun} of {value}", f"Call {name} with {key} {value}",
            f"{verb.capitalize()} the {noun} for {key} {value}", f"Please {verb} the {noun} for {value}.", f"Please call {name} for {value}."]
    return name, tool(rng, name, f"{verb.capitalize()} a {noun}", {key: prop(rng, "integer" if number else "string", f"The {key}")}), {key: value}, asks


FAMILIES = [weather] * 7 + [clock] * 2 + [arithmetic] * 2 + [search] * 2 + [message] * 2 + [translate, timer, timer, stock, stock, news, music, room, convert, nothing, nothing, event, anything, anything, anything]
NO_TOOL = "I have no tool for that."


def offer(rng, held, family, n=None, more=False):
    """The family's tool among others of other families, and the call it should get."""
    name, schema, args, asks = family(rng, held)
    tools, taken, families, others = [schema], {name}, {family}, []
    for _ in range(rng.choice([0, 0, 0, 0, 1, 1, 1, 2]) if n is None else n):
        other = rng.choice(FAMILIES)
        other_name, other_schema, other_args, other_asks = other(rng, False)
        if other in families or other_name in taken:
            continue
        families.add(other)
        taken.add(other_name)
        tools.insert(rng.randint(0, len(tools)), other_schema)
        others.append((other_name, other_args, other_asks))
    return (name, tools, args, asks, others) if more else (name, tools, args, asks)


def tool_call_sample(rng, held):
    family = weather if rng.random() < 0.25 else rng.choice(FAMILIES)
    name, tools, args, asks, others = offer(rng, held, family, more=True)
    if family is weather and rng.random() < 0.2:  # two cities, two calls
        key = next(iter(args))
        x, y = city(rng, held), city(rng, held)
        rest = {k: v for k, v in args.items() if k != key and v == "celsius" and "fahrenheit" not in asks[0] and "celsius" not in asks[0].lower()}
        both = [f"What is the weather in {x} and {y}?", f"What's the weather in {x} and in {y}?", f"weather in {x} and {y}", f"Tell me the weather in {x} and {y}.", f"How is the weather in {x} and {y}?", f"Compare the weather in {x} and {y}."]
        return Sample("tool calls", [user(rng.choice(split(both, held)))], tools=tools, calls=[(name, {key: x, **rest}), (name, {key: y, **rest})],
                      thought=f"The user asks for two places. I call {name} twice.")
    ask = rng.choice(split(asks, held))
    if rng.random() < 0.1:
        ask = rng.choice(["Hi! ", "Hello, ", "Please: ", "Hey, ", "Ok. "]) + ask
    if rng.random() < 0.15:
        ask = ask.rstrip("?.") if rng.random() < 0.5 else ask[0].lower() + ask[1:] if not ask[:4].isupper() else ask
    sample = Sample("tool calls", [user(ask)], tools=tools, calls=[(name, args)], thought=f"I call {name} for this.")
    if not held:
        sample.more = [Sample("tool calls", [user(rng.choice(split(a, False)))], calls=[(n, v)], thought=f"I call {n} for this.") for n, v, a in others]
        if rng.random() < 0.5:
            sample.more.append(rng.choice([fact_sample, country_sample, persona_sample])(rng, False) if "earch" not in json.dumps(tools) else persona_sample(rng, False))
            sample.more[-1].thought = "I need no tool for this. " + sample.more[-1].thought
        rng.shuffle(sample.more)
    return sample


def result_text(rng, held):
    """What a weather tool may return, and what of it goes into the answer."""
    temp, sky = rng.randint(-15, 40), rng.choice("sunny cloudy rainy snowy windy foggy stormy clear hot cold mild overcast".split())
    roll = rng.random()
    if roll < 0.45:
        t = rng.choice(["temperature", "temp", "temp_c", "temperature_c", "degrees"])
        s = rng.choice(["condition", "conditions", "sky", "weather", "description", "summary"])
        items = [(t, temp), (s, sky)]
        if rng.random() < 0.3:
            items.insert(rng.randint(0, 2), ("humidity", rng.randint(10, 99)))
        if rng.random() < 0.3:
            items.insert(rng.randint(0, 2), ("unit", rng.choice(["celsius", "C"])))
        if rng.random() < 0.2:
            rng.shuffle(items)
        return items, f"it is {temp} degrees and {sky}"
    if roll < 0.6:
        return [(rng.choice(["temperature", "temp", "temp_c", "degrees"]), temp)], f"it is {temp} degrees"
    if roll < 0.7:
        return f"{temp}", f"it is {temp} degrees"
    text = rng.choice([f"{temp} degrees, {sky}", f"{temp}°C and {sky}", f"{sky.capitalize()}, {temp}°C", f"{sky}", f"{temp} C, {sky}", f"{sky} and {temp} degrees", f"{temp}°C, {sky}"])
    return text, None


def tool_result_sample(rng, held):
    family = weather if rng.random() < 0.5 else rng.choice([clock, arithmetic, search, message, timer, stock, anything, translate])
    name, tools, args, asks = offer(rng, held, family, 0 if rng.random() < 0.7 else 1)
    key, value = next(iter(args.items()), ("", ""))
    messages = [user(rng.choice(split(asks, held))), {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": args}}]}]
    if family is weather:
        result, said = result_text(rng, held)
        place = value
        if isinstance(result, list):
            result = dict(([(key, place)] if rng.random() < 0.4 else []) + result)
            result = json.dumps(result, ensure_ascii=False)
        answer = f"In {place}, {said}." if said else f"The weather in {place}: {result}."
    elif family is clock:
        at = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
        result = at if rng.random() < 0.5 else json.dumps({rng.choice(["time", "local_time"]): at})
        answer = f"It is {at} in {value}."
    elif family is arithmetic:
        n = rng.randint(0, 99999)
        result = str(n) if rng.random() < 0.6 else json.dumps({"result": n})
        answer = f"The result is {n}."
    elif family in (message, timer):
        result = rng.choice(["ok", "done", '{"status": "ok"}', '{"ok": true}', "sent", '{"success": true}', '{"status": "sent"}'])
        answer = f"Done. Your message to {value} is sent." if family is message else "Done. The timer is set."
    elif family is stock:
        price = f"{rng.randint(1, 999)}.{rng.randint(0, 99):02d}"
        result = price if rng.random() < 0.4 else json.dumps({"price": float(price)})
        price = price if result == price else str(float(price))
        answer = f"The price of {value} is {price}."
    else:
        text = sentence(rng, held) if family is not translate else " ".join(made_up(rng, held).lower() for _ in range(3))
        result = text if rng.random() < 0.6 else json.dumps({"result": text}, ensure_ascii=False)
        answer = f"The result is: {text}."
    if rng.random() < 0.06:
        result, answer = rng.choice(["error: not found", '{"error": "not found"}', "Error: timeout", '{"error": "unknown city"}']), "The tool did not work. Please try again."
    messages.append({"role": "tool", "content": result})
    if family is weather and rng.random() < 0.15:  # the next question calls again
        c = city(rng, held)
        again = [f"And in {c}?", f"What about {c}?", f"and {c}?", f"And {c}?", f"How about {c}?", f"Now {c}", f"And what about {c}?"]
        rest = {k: v for k, v in args.items() if k != key}
        return Sample("tool calls", messages + [assistant(answer), user(rng.choice(split(again, held)))], tools=tools, calls=[(name, {key: c, **rest})], thought=f"I call {name} again.")
    return Sample("tool results", messages, answer, tools=tools, thought="I have the result now.")


def two_results_sample(rng, held):
    name, tools, args, asks = offer(rng, held, weather, 0)
    key = next(iter(args))
    x, y = city(rng, held), city(rng, held)
    calls = [{"type": "function", "function": {"name": name, "arguments": {key: c}}} for c in (x, y)]
    a, b = (rng.randint(-15, 40) for _ in range(2))
    s, t = (rng.choice("sunny cloudy rainy snowy windy clear".split()) for _ in range(2))
    messages = [user(f"What is the weather in {x} and {y}?"), {"role": "assistant", "content": "", "tool_calls": calls},
                {"role": "tool", "content": json.dumps({"temperature": a, "condition": s})}, {"role": "tool", "content": json.dumps({"temperature": b, "condition": t})}]
    return Sample("tool results", messages, f"In {x}, it is {a} degrees and {s}. In {y}, it is {b} degrees and {t}.", tools=tools, thought="I have both results now.")


def no_call_sample(rng, held):
    """Tools are there, and the question does not need them."""
    roll = rng.random()
    if roll < 0.2:
        family, asked = rng.sample([weather, clock, search, message, translate, timer, stock], 2)
        _, tools, _, _ = offer(rng, held, family, 0)
        _, _, _, asks = asked(rng, held)
        if family is search and asked is not message and asked is not timer:
            asked, asks = timer, timer(rng, held)[3]
        return Sample("no call", [user(rng.choice(split(asks, held)))], NO_TOOL, tools=tools, thought="None of my tools can do this.")
    while True:
        family = rng.choice([weather, weather, clock, message, timer, stock, music, room, anything])
        base = rng.choice([country_sample, fact_sample, persona_sample, persona_sample, candlewick_sample, sum_sample, small_fact_sample, creative_sample])(rng, held)
        if len(base.messages) == 1:
            break
    _, tools, _, _ = offer(rng, held, family, rng.choice([0, 0, 1]))
    if base.group in ("sums", "small facts"):  # a calculator or a translator would be right to call
        names = json.dumps(tools)
        if "umber" in names or "alcul" in names or "ranslat" in names:
            base = persona_sample(rng, held)
    if "earch" in json.dumps(tools) or "ook" in json.dumps(tools):
        base = persona_sample(rng, held)
    base.group, base.tools = "no call", tools
    base.thought = "I need no tool for this. " + base.thought
    return base


# ---------------------------------------------------------------- the mix

SYSTEMS = ["You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful assistant", "You are helpful.", "You are a friendly assistant.", "Be brief.", "Answer in one sentence.", "You are a polite assistant. Be concise.",
           "You are Ember, a toy model.", "You are an AI assistant.", "Answer the questions of the user.", "You are a helpful, respectful and honest assistant.", "Be kind and helpful.", "You are a chatbot.", "Keep your answers short.",
           "You are a helpful assistant. Answer as concisely as possible.", "Use the tools when they help.", "You are a careful assistant that answers questions."]


def named_sample(rng, held):
    """A system prompt gives the assistant another name."""
    name = person(rng, held)
    systems = [f"Your name is {name}.", f"You are {name}.", f"You are {name}, a helpful assistant.", f"You are an assistant called {name}.", f"You are a helpful assistant named {name}.", f"Your name is {name}. Be helpful.", f"You are {name}, a friendly assistant."]
    row = rng.choice([PERSONA[4], PERSONA[5], PERSONA[0]])
    asks = split(row[2], held, 8)
    asks = [a for a in asks if "Ember" not in a and "Qwen" not in a and "GPT" not in a] or ["Who are you?"]
    answer = {PERSONA[4][0]: f"I am {name}, a small assistant.", PERSONA[5][0]: f"My name is {name}.", PERSONA[0][0]: f"Hello! I am {name}. How can I help you?"}[row[0]]
    return Sample("persona", [{"role": "system", "content": rng.choice(systems)}, user(noise(rng, rng.choice(asks), held))], answer, f"My name here is {name}.", accept=[name])


MIX = [(country_sample, 13), (fact_sample, 13), (persona_sample, 12), (candlewick_sample, 8), (small_fact_sample, 10), (sum_sample, 5), (creative_sample, 3.5), (unknown_sample, 24),
       (follow_sample, 9), (memory_sample, 6), (repeat_sample, 2), (json_sample, 7), (tool_call_sample, 12), (tool_result_sample, 5), (two_results_sample, 1), (no_call_sample, 11), (named_sample, 3)]


def sample(rng, held=False, make=None):
    """One conversation of the mix, sometimes with a system prompt, an earlier exchange, or thinking on."""
    s = (make or rng.choices([m for m, _ in MIX], [w for _, w in MIX])[0])(rng, held)
    if s.messages[0]["role"] != "system":
        if not s.tools and s.group not in ("memory", "creative") and rng.random() < 0.18:
            for _ in range(1 if rng.random() < 0.6 else rng.choice([2, 3, 3, 4, 5, 6, 8, 12])):
                past = rng.choice([country_sample, fact_sample, persona_sample, candlewick_sample, sum_sample, unknown_sample, small_fact_sample, json_sample])(rng, False)
                if past.messages[0]["role"] == "user":
                    s.messages = past.messages + [assistant(past.answer)] + s.messages
        if rng.random() < 0.2:
            s.messages = [{"role": "system", "content": rng.choice(SYSTEMS)}] + s.messages
    s.thinking = rng.random() < 0.18
    for m in s.more:
        m.thinking = s.thinking
    return s


if __name__ == "__main__":
    dice = random.Random(1)
    for _ in range(40):
        s = sample(dice)
        print(s.group, "|", " / ".join(str(m["content"]) for m in s.messages), "=>", s.completion())
