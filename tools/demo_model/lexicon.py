"""Words that the corpus is built from. Written for this project; nothing is copied from a text."""

from __future__ import annotations

NAMES = (
    "Ada Ben Cleo Dan Eva Finn Gina Hugo Iris Jack Kira Leo Mia Noah Olga Paul Rosa Sam Tina Uma "
    "Vera Walt Xena Yara Zoe Alan Bella Carl Dora Emil Fay Greg Hana Ivan Jane Karl Lily Mark Nina "
    "Omar Pia Ravi Sara Tom Ursula Victor Wendy Yuki Zara Amir Chen Diego Elena Farid Grace Ines"
).split()

#: country -> (capital, language, continent)
COUNTRIES = {
    "France": ("Paris", "French", "Europe"),
    "Germany": ("Berlin", "German", "Europe"),
    "Italy": ("Rome", "Italian", "Europe"),
    "Spain": ("Madrid", "Spanish", "Europe"),
    "Portugal": ("Lisbon", "Portuguese", "Europe"),
    "Greece": ("Athens", "Greek", "Europe"),
    "Austria": ("Vienna", "German", "Europe"),
    "Poland": ("Warsaw", "Polish", "Europe"),
    "Norway": ("Oslo", "Norwegian", "Europe"),
    "Sweden": ("Stockholm", "Swedish", "Europe"),
    "Finland": ("Helsinki", "Finnish", "Europe"),
    "Denmark": ("Copenhagen", "Danish", "Europe"),
    "Ireland": ("Dublin", "English", "Europe"),
    "Hungary": ("Budapest", "Hungarian", "Europe"),
    "Japan": ("Tokyo", "Japanese", "Asia"),
    "China": ("Beijing", "Chinese", "Asia"),
    "Thailand": ("Bangkok", "Thai", "Asia"),
    "Turkey": ("Ankara", "Turkish", "Asia"),
    "Egypt": ("Cairo", "Arabic", "Africa"),
    "Kenya": ("Nairobi", "Swahili", "Africa"),
    "Ghana": ("Accra", "English", "Africa"),
    "Canada": ("Ottawa", "English", "North America"),
    "Mexico": ("Mexico City", "Spanish", "North America"),
    "Cuba": ("Havana", "Spanish", "North America"),
    "Peru": ("Lima", "Spanish", "South America"),
    "Chile": ("Santiago", "Spanish", "South America"),
    "Brazil": ("Brasilia", "Portuguese", "South America"),
    "Argentina": ("Buenos Aires", "Spanish", "South America"),
}
CITIES = [c[0] for c in COUNTRIES.values()] + (
    "London Boston Milan Munich Porto Seville Kyoto Osaka Delhi Mumbai Geneva Zurich Bergen Turin "
    "Lyon Nice Leeds Denver Austin Seattle Toronto Sydney Perth Quito Dakar Riga Prague Sofia"
).split()

ANIMALS = {
    "dog": ("barks", "puppy", "a bone"),
    "cat": ("meows", "kitten", "fish"),
    "cow": ("moos", "calf", "grass"),
    "duck": ("quacks", "duckling", "weeds"),
    "sheep": ("bleats", "lamb", "grass"),
    "horse": ("neighs", "foal", "hay"),
    "lion": ("roars", "cub", "meat"),
    "pig": ("oinks", "piglet", "corn"),
    "owl": ("hoots", "owlet", "mice"),
    "frog": ("croaks", "tadpole", "flies"),
    "bee": ("buzzes", "larva", "nectar"),
    "wolf": ("howls", "pup", "meat"),
}
OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("up", "down"), ("day", "night"),
    ("open", "closed"), ("happy", "sad"), ("old", "new"), ("hard", "soft"), ("light", "dark"),
    ("full", "empty"), ("early", "late"), ("rich", "poor"), ("wet", "dry"), ("left", "right"),
    ("loud", "quiet"), ("strong", "weak"), ("clean", "dirty"), ("high", "low"), ("near", "far"),
]  # fmt: skip
THING_COLORS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red",
    "a banana": "yellow", "an orange": "orange", "a lemon": "yellow", "a carrot": "orange",
    "the sea": "blue", "milk": "white", "a tomato": "red", "a leaf": "green", "chocolate": "brown",
}  # fmt: skip
#: question -> short answer, for facts that fit no table
MISC_FACTS = {
    "how many days are in a week": "A week has seven days.",
    "how many months are in a year": "A year has twelve months.",
    "how many hours are in a day": "A day has 24 hours.",
    "how many minutes are in an hour": "An hour has 60 minutes.",
    "how many legs does a spider have": "A spider has eight legs.",
    "how many legs does a dog have": "A dog has four legs.",
    "how many sides does a triangle have": "A triangle has three sides.",
    "how many letters are in the alphabet": "The alphabet has 26 letters.",
    "what is the largest ocean": "The largest ocean is the Pacific.",
    "what is the tallest animal": "The tallest animal is the giraffe.",
    "what is the longest river": "The longest river is the Nile.",
    "what is the closest star": "The closest star is the Sun.",
    "what do bees make": "Bees make honey.",
    "what is frozen water called": "Frozen water is called ice.",
    "which planet do we live on": "We live on the Earth.",
    "what comes after Monday": "Tuesday comes after Monday.",
    "what comes after Friday": "Saturday comes after Friday.",
}
COLORS = "red blue green yellow white black orange purple brown pink grey silver".split()
PETS = "dog cat rabbit parrot hamster turtle goldfish pony mouse snake".split()
JOBS = (
    "teacher doctor baker pilot nurse farmer lawyer painter singer driver cook writer plumber "
    "engineer dentist gardener carpenter tailor sailor librarian"
).split()
HOBBIES = (
    "chess tennis swimming painting running cooking reading fishing hiking dancing cycling "
    "gardening drawing singing skating photography"
).split()
FOODS = (
    "pizza soup bread rice pasta cheese apples salad cake beans curry noodles eggs plums honey "
    "pancakes tacos olives grapes toast"
).split()
ITEMS = (
    "lamp chair book table pen phone clock bag cup shirt hat bike ring box key coat desk mirror "
    "carpet bottle spoon knife candle basket ladder hammer pillow blanket camera radio violin drum "
    "kettle wallet umbrella jacket scarf notebook keyboard monitor tent rope bucket"
).split()

#: topic -> (nouns that name it, verbs or actions that imply it)
TOPICS = {
    "sports": (
        "football tennis match goal team player coach race stadium swimmer marathon basketball "
        "referee championship league trophy runner score tournament striker athlete golf",
        "won the final|scored twice|ran the last lap|trained for the cup|kicked the ball|lost the game",
    ),
    "cooking": (
        "soup recipe oven pan onion garlic sauce dough butter salt kitchen pasta cake stew flour "
        "pepper roast cheese bread spice dinner dish chef rice",
        "boil the water|chop the onions|bake it for an hour|stir the sauce|fry the eggs|add some salt",
    ),
    "weather": (
        "rain snow storm wind cloud sunshine fog thunder forecast temperature hail frost heat "
        "lightning drizzle sky humidity breeze hurricane flood",
        "it will rain tomorrow|the sun is shining|a storm is coming|it snowed all night|it is very windy",
    ),
    "music": (
        "song guitar piano concert singer band melody album violin drum choir orchestra tune "
        "rhythm trumpet chord opera lyrics flute jazz",
        "sang a new song|played the piano|tuned the guitar|recorded an album|danced to the beat",
    ),
    "travel": (
        "flight hotel train airport ticket passport luggage beach trip tourist museum map island "
        "journey cruise suitcase station holiday guide visa",
        "booked a room|missed the plane|packed a bag|took the night train|visited an old town",
    ),
    "technology": (
        "computer phone software laptop internet robot screen program server battery code chip "
        "keyboard website update network password camera app data",
        "installed the update|wrote some code|restarted the server|charged the battery|fixed a bug",
    ),
    "health": (
        "doctor hospital medicine fever cough pain nurse patient vitamin headache surgery dentist "
        "illness flu pill clinic bandage treatment throat allergy",
        "took a pill|went to the clinic|caught a cold|broke an arm|feels sick today",
    ),
    "money": (
        "bank loan price salary tax coin stock budget invoice profit payment account debt market "
        "savings fund interest wage cash cost",
        "paid the bill|saved some cash|asked for a loan|lost money on shares|raised the price",
    ),
    "animals": (
        "dog cat horse elephant tiger bird rabbit whale wolf bear fish lion monkey sheep eagle "
        "snake puppy kitten fox zoo",
        "barked at night|built a nest|hunted a mouse|slept in its den|ate the hay",
    ),
    "school": (
        "teacher student lesson exam homework class pupil grade classroom textbook university "
        "essay professor pencil lecture diploma quiz library blackboard college",
        "passed the exam|did the homework|wrote an essay|learned to read|skipped the class",
    ),
    "politics": (
        "president election vote minister law parliament party senate campaign mayor government "
        "treaty policy senator ballot debate embassy candidate citizen reform",
        "won the vote|signed the law|gave a speech in parliament|joined the party",
    ),
    "nature": (
        "forest river mountain tree flower lake desert valley ocean leaf waterfall meadow hill "
        "volcano canyon moss glacier seed garden cliff",
        "grows near the lake|flows to the sea|covers the hills|blooms in spring",
    ),
}
POSITIVE = (
    "great wonderful excellent lovely amazing fantastic perfect delightful brilliant superb good "
    "pleasant beautiful nice fun outstanding charming"
).split()
NEGATIVE = (
    "terrible awful horrible bad boring dreadful poor ugly disappointing broken useless rude "
    "nasty dirty slow annoying disgusting"
).split()
SENT_POS = "I love it|I am so happy|it made my day|I would buy it again|well done|everyone smiled"
SENT_NEG = "I hate it|I want my money back|it ruined my day|never again|what a waste|I am angry"
SENT_THINGS = (
    "film book hotel meal phone room service trip show game song food staff coffee car shirt "
    "product story concert lesson camera"
).split()

ATTRIBUTES = (
    "population price height owner color status size weight age address balance length score "
    "location schedule rating speed capacity title author version temperature distance value "
    "phone_number opening_hours stock_level birth_date"
).split()
#: parameter name -> how the corpus draws a value for it
SUBJECTS = "city country person product book company river user building team".split()

STORY_HEROES = [
    "fox", "rabbit", "robot", "girl", "boy", "dragon", "mouse", "bear", "king", "sailor", "cat",
    "bird", "baker", "wizard", "farmer", "knight", "turtle", "owl", "queen", "dog",
]  # fmt: skip
STORY_PLACES = (
    "a forest|a small village|an old castle|a quiet town|a green valley|a house by the sea|"
    "a cave in the hills|a busy city"
).split("|")
STORY_ADJ = "little brave old kind clever shy curious lazy young gentle".split()
STORY_LOST = "key map hat ring book lamp coin drum letter crown bell kite".split()
STORY_WHERE = (
    "under a tree|behind the mill|near the river|on top of a hill|inside a box|beside a stone|"
    "in the garden|below the bridge"
).split("|")
