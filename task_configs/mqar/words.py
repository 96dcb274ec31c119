"""Common English nouns and adjectives of three to seven letters.

Each is a single token of GPT-2's tokenizer where a space stands before it. No other tokenizer is promised: that of the
bundled checkpoints, with its 7,936 tokens, splits more than half of them.
"""


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


WORDS = _listed(
    """
    angry animal answer apple arm army art author autumn baby back bacon badge bag ball balloon band bank bar barrel
    base basket bath battle beach beam bean bear beard beast bed beer bell belt bench bird bishop bitter black blade
    blanket blind blood blue boat body bold bolt bone book boot border bottle bottom bow bowl box boy brain branch
    brass brave bread breeze brick bride bridge bright broad bronze brother brown brush bucket bull bullet bus bush
    butter button cabin cabinet cable cage cake calf calm camel camera camp candle candy cap captain car carbon card
    carpet cart castle cat cattle cave ceiling cell ceramic chain chair chalk chapel charm cheap cheese cherry chest
    chicken child chin church cigar circle city clay clean clerk cliff cloak clock cloth cloud club coal coast coat
    coffee coin cold collar comet concert cook cool copper copy coral corn corner cotton couch court cousin cow crab
    cradle cream creek crew cross crowd crown cruel cup curious curtain custom dad dagger dance dark dawn dead deck
    deep deer desert desk diamond dinner dirt dirty dish dock doctor dog doll dollar donkey door dot dragon drawer
    dress drum dry duck dull dust eagle ear early earth east edge egg elbow emperor empty engine eye fabric face
    factory fairy famous farm farmer fat father feather fence fever field fierce film fine finger fire fish flag
    flame flat flesh flood floor flower fly foot forest fork fox frame friend frog fruit fur galaxy gallery garage
    garden garlic gas gate gentle ghost giant gift ginger girl glad glass glove glue goat gold golden golf gown
    grain grand granite grape grass grave great green grey ground guard guest guilty guitar gun hair hall hammer
    hand handle happy harbor hard harvest hat hawk head heart heat heavy helmet herb hidden high hill hole holy home
    honey hook horn horse hot hotel house huge hungry hut ice ink insect iron island ivory jacket jail jar jaw jelly
    jet jewel judge juice jungle jury kettle key kind king kingdom kitchen knee knife knight lace ladder lady lake
    lamb lamp land lane lantern large late lava lawn lawyer lazy lead leaf leather leg lemon lens letter library lid
    light linen lion lip little liver lizard lock locker lodge log lonely long loose lord loud low lucky lung
    machine mad magnet maid map maple marble market mask master mayor meal meat medal melody metal milk mill mine
    mirror mist monkey moon moss moth mother motor mouse mouth mud muscle museum nail narrow neat neck needle nest
    net new night noble north nose nun nurse oak ocean odd office oil old olive onion orange oven owl oxygen page
    paint pair palace pale palm pan panel paper parade park path pear pearl pen pencil people pepper phone photo
    piano picture pie pig pillow pilot pin pink pipe plain plant plate plum pocket poem poet police pond pool poor
    porch port post pot potato pound powder priest prince prison proud purple quartz queen quick quiet rabbit radio
    raft rail rain rare rat raw red reef ribbon rice rich rifle ring river road robe robot rock roof room root rope
    rose rough round royal rubber ruby rude rug ruler sad saddle safe sail sailor salad salmon salt sand scarf
    school screen sea seat seed shark sharp sheep sheet shelf shell shield ship shirt shoe shop short shrimp shrine
    shy sick silent silk silver simple singer sink sister skin skirt skull sky slow small smart smoke smooth snake
    snow soap sock sofa soft soil soldier solid son song soup sour south spear spider sponge spoon spring square
    stage stamp star station statue steady steam steel steep stem step stick stiff stomach stone storm stove strange
    straw street strict string strong sugar suit summer sun sweet swift sword table tail tall tame tank tavern tea
    teacher temple tent thick thief thin thorn thread throat throne thumb thunder ticket tide tiger tight timber tin
    tiny tire tired toast toe tomato tongue tool tooth torch tough tower town toy track train tray tree tribe trophy
    truck trunk tube tunnel turkey twin uncle valley van vapor vast vehicle velvet village violin voice wagon wall
    wallet warm water wave wax weak west wet whale wheat wheel whip white wicked wide wild window wine wing winter
    wire wise wizard wolf woman wood wool worm wound yard yellow young
    """
)
