"""Sentences of the pages of `mini_swde`; `{it}` is the page's subject, with its article where it has one."""

from .words import Template, compiled_lines

COMMON: tuple[Template, ...] = compiled_lines("""
    In {month} {year} a small exhibition in {town} told the story with {few} old photographs.
    {scholar} wrote about {it} in a book of {###} pages that is now hard to find.
    A letter from {scholar2}, kept in {town2}, gives a different account of those years.
    The oldest known drawing was sold for {###} crowns at an auction in {town}.
    Visitors who come by train usually change at {town2} and walk the last {few} hundred steps.
    The writer {writer} called {it} {adjective} and altogether unlike anything else.
    About {###} people took part in the celebrations of {year}, in spite of the rain.
    A {slow|short|warm|quiet} radio programme about {it} was broadcast in {few} parts.
    Most of the early records were lost when the cellar of {firm} was flooded in {year}.
    Since {year} a group of volunteers has met every {few} weeks to sort the papers that remain.
    The schools of {town} teach the story in their {third|fourth|fifth} year.
    {scholar} and {scholar2} disagreed about almost everything except {it}.
    A stamp with a picture of a {adjective} {thing} was issued in {month} {year}.
    Some say that {it} brought luck to {town}, and others say the opposite.
    {It} is mentioned {few} times in the diaries of {scholar2}.
    The anniversary was marked with a concert, {few} speeches and a very large cake.
    In a survey of {####} readers {it} came out {third|fourth|sixth|ninth}.
    A plan to change all this was discussed in {year} but was dropped for lack of money.
    {firm} paid for the new signs, which show a {adjective} {creature} on a striped ground.
    The photographs on this page were taken by {scholar} on a cold morning in {month}.
    Until {year} it was not even certain who had owned the {adjective} {thing}.
    The story has been told in {few} languages, though never quite in the same way.
    According to {scholar}, the truth is {simpler|stranger|sadder|duller} than the legend.
    It took {few} years and {##} meetings before everyone agreed.
    A {adjective} {creature} appears on the cover of the guide that {firm} printed.
    Students from {town2} measured everything again in {year} and came to nearly the same figures.
    The first account in print runs to no more than {##} lines.
    Dr {writer} keeps a list of errors in earlier versions of this page; it has {##} entries.
    There is a model in the {adjective} hall of {town2}, made by hand from {material} and string.
    A song about {it}, with {few} verses, is still sung in {town} at midwinter.
    The name is often misspelt, most famously on a {adjective} banner in {year}.
    On a clear day in {month} more than {###} people may come to look.
    {scholar2} gave {few} boxes of notes to the library of {town2}.
    Not much is known of the years between {year} and the great storm.
    A second, shorter description was added later by somebody who signed as {writer}.
    The council of {town} has {twice|three times} refused to put up a statue.
    Prices rose by {##} per cent in that decade, which explains a good deal.
    For the film of those events a whole street was rebuilt near {town2}.
    An early map shows a {thing}, {few} trees and a road that leads nowhere.
    The committee, led for {##} years by {scholar}, was dissolved without a vote.
    None of this would have happened without the help of {scholar2}.
    Questions about {it} can be sent by post, and most are answered within {few} weeks.
    A collection of {###} postcards was found behind a wall in {town}.
    Between the wars {it} was almost forgotten.
    {writer} later said that the report had been written in {few} days.
    Nobody in {town} will say who painted the {adjective} {thing}, although everybody knows.
    A {adjective} road with {few} bends and no shade leads to the place where {scholar} first heard of it.
    The newspapers of {month} {year} devoted {few} columns to the affair and then turned to the harvest.
    When the archive of {town2} moved to new rooms, {##} boxes were put on the wrong lorry.
    The best description is still that of {scholar2}, who wrote it from memory and without maps.
    An attempt to count everything ended at {####}, when the light failed.
    Those who want to know more are sent to {town2}, where a {adjective} cabinet holds the rest.
    The first telephone in the district was used in {year} to spread the news.
    For a time {firm} sold a {adjective} {thing} as a souvenir, and {###} of them are left.
    {scholar} left {##} letters on the matter, all of them undated and some of them in verse.
    A {creature} that is said to have been present is shown, stuffed, in {town2}.
    Opinions are divided: {scholar2} speaks of a great success and {writer} of a {adjective} mistake.
    In the {fifties|sixties|seventies} a {adjective} sign was put up, and {few} years later it was stolen.
    There were {few} witnesses, of whom two agreed.
    The judge in {town} needed {few} sittings to find out what {it} had to do with the case.
    Under a {adjective} stone in the garden lies a box that is to be opened in a hundred years.
    Guides tell the story with a {thing} and a {creature} in it, neither of which is mentioned in the sources.
    The figures given before {year} should be treated with care, since {writer} tended to round them up.
    The weather of that {month} is described in {few} diaries, each time as {worse|wetter|colder|finer} than in \
        the others.
    What became of the {adjective} {thing} after {year} is not known.
    A prize in memory of {scholar} has been given every {few} years to a student from {town2}.
""")

TOPICS: dict[str, tuple[Template, ...]] = {
    "town": compiled_lines("""
        {name} lies on the road from {town} to {town2}, where it crosses a {adjective} valley.
        The old walls of {name} had {few} gates, of which only the {northern|southern|western} one still stands.
        A market for {cattle|wool|glass|salt|timber} was held here until {year}.
        The church has a {adjective} tower and {few} bells, the largest of which was cast in {town}.
        Most people now work in {town2} and travel there by bus.
        The bridge was rebuilt by {scholar} after the flood of {year}.
        A narrow lane leads from the square to the mill, which ground its last corn in {year}.
        The {firm} factory once gave work to {###} people and closed in {month} {year}.
        In winter the snow lies for {few} weeks, and the road over the hill is shut.
        {name} has {few} schools, a small theatre and a library with {##} thousand books.
        The football ground by the station holds a fair every {month}.
        An inn called the {Adjective} {Creature} has stood on the corner since {year}.
        The people of {name} are said to be slow to answer and slower to forget.
        The swimming baths, built of {material} and brick, were the gift of {scholar2}.
        The {adjective} hall behind the church is used for dances, elections and the drying of herbs.
        A tram ran from {name} to {town} until the rails were sold for scrap in {year}.
        The cellars under the square are joined by a tunnel {##} paces long.
        On the hill above {name} stand {few} windmills, one of them with its sails.
    """),
    "company": compiled_lines("""
        {name} began in a {adjective} shed near {town} with {few} workers and one lathe.
        The first order came from {scholar}, who wanted {###} hinges and paid late.
        In {year} the firm moved its drawing office to {town2}, where it stayed for {##} years.
        A fire in {month} {year} destroyed the paint shop and {few} finished machines.
        The shares rose by {##} per cent in a week and fell back in the next.
        {name} bought {firm} in {year} and sold it again {few} years later.
        Its {adjective} vans with a {creature} on the door were once seen in every street.
        A strike over the length of the tea break lasted {few} weeks and was ended by {scholar2}.
        The workshop in {town2} still makes {##} pieces a day by hand.
        {name} was fined in {year} because its chimney was {few} metres too high.
        Half of the profit goes to a fund for the training of {young|local|older} workers.
        The letter from {writer} to the shareholders runs to {##} pages and names no figure.
        About {##} per cent of what is made goes abroad, most of it by sea.
        New models are tried out on a {adjective} track behind the works at {town}.
        The canteen of {name} serves {###} meals a day and is known for its soup.
        A {adjective} calculating machine bought in {year} was still in use {few} years later.
        The board meets in {town2} every {few} weeks in a room without chairs.
        In the worst year {name} lived on the repair of prams and bicycles.
    """),
    "athlete": compiled_lines("""
        {name} grew up on a farm near {town} and ran to school and back, {few} miles a day.
        At the games of {year} {name} came {fourth|fifth|seventh} after leading for most of the race.
        An injury to the left knee in {month} {year} cost {name} almost a whole season.
        {scholar2}, who shared a room with {name}, remembers the alarm clock above all.
        The race in {town2} was run in such heat that {##} of the starters gave up.
        {name} has always trained alone, before breakfast and in any weather.
        The {firm} relay was won by {few} seconds, and the cup went round the town in a {adjective} cart.
        A false start in {town} led to a protest that was settled {few} months later.
        {name} holds a degree in {geology|statistics|forestry|law} and writes a column on {birds|chess|bread}.
        The shoes worn in {town2} were sold for {####} crowns, which went to a hospital.
        In {year} {name} ran the hill race against {scholar} and lost by a hand.
        Doctors told {name} to rest for {few} weeks, advice that was followed for two days.
        {writer} wrote of a runner with the step of a {creature} and the patience of a clerk.
        {name} plans to stop after the season and to open a small school for runners in {town}.
        The diary of that season notes {few} colds, {##} blisters and no excuses.
        {name} carried the flag in {town2} in {year}, in shoes that were a size too large.
        A street in {town} was named after {name}, who asked for it to be a steep one.
        The winter of {year} was spent in the hills near {town2}, with {few} sheep for company.
    """),
    "film": compiled_lines("""
        The story begins in a {adjective} house near {town}, where {few} strangers wait for a train.
        A clockmaker, played by {scholar2}, finds a {thing} that does not belong to anyone.
        Critics praised the {adjective} light and found the last half hour too long.
        The scene on the bridge was shot {##} times because a {creature} would not stay still.
        {name} opened in {##} cinemas and was still shown in {town2} a year later.
        {writer} of the morning paper gave it {two|three|four} stars and left before the end.
        The costumes were lent by {firm}, down to the last {thing}.
        A version with {few} more scenes was found in {year} and restored frame by frame.
        For the storm {##} fans were brought from {town} by lorry.
        {scholar} was first asked to act in it but was held up in {town2}.
        The {third|fourth|second} act takes place in a single room and lasts {##} minutes.
        The {thing} seen in the final shot stands today in the hall of {firm}.
        A second part was announced in {year} and never made.
        The sound of the {creature} was made with a {thing} and a wet cloth.
        The camera stays on the {thing} for {few} minutes, while voices are heard through the wall.
        Posters showed a {adjective} {creature} that does not appear at all.
        A private showing for {firm} ended in an argument about the last line.
        The script had {###} pages, of which {scholar2} crossed out {##} in a night.
    """),
    "river": compiled_lines("""
        Below {town} {it} turns to the {west|south|north|east} and runs through a {adjective} gorge.
        The flood of {year} carried away {few} bridges and half of the {adjective} mill.
        Boats can go as far as {town2}, where the water is only {few} feet deep in summer.
        {It} freezes over in one winter out of {few}.
        The fishermen of {town} use a {adjective} net that is hung between two poles.
        A dam was planned above {town2} but was given up after protests led by {scholar}.
        The water is {brown|clear|cold|soft|hard} and tastes of {iron|peat|clay|chalk}.
        Timber from the hills was floated down {it} until {year}.
        A path along the bank, {##} miles long, was opened by {scholar2}.
        The sandbanks near the sea move by {##} paces in a year.
        {firm} took its water here and had to clean it again after the court case of {year}.
        In spring {##} kinds of birds rest on the islands.
        {writer} went down {it} in a leather boat in {few} weeks and lost both oars.
        The old border ran along the {left|right} bank as far as the {adjective} stones.
        Near {town} {it} disappears under the ground and comes out again {few} fields away.
        A {adjective} ship made of concrete has been lying at the bend since {year}.
        The mills along {it} once ground {adjective} flour for the whole of {town2}.
        Children in {town} learn to swim where the water runs over {adjective} pebbles.
    """),
    "club": compiled_lines("""
        {name} played their first match on a field near {town}, with coats for goal posts.
        The cup final of {year} was lost in the last minute, to a goal that {scholar2} still calls offside.
        The stand by the river was built of {material} and burnt down in {year}.
        {name} went up {twice|three times} in {few} years and down again just as fast.
        The team bus, a {adjective} one lent by {firm}, broke down on the way to {town2}.
        Away from home {name} has not won in {town} since {month} {year}.
        The match against the dockers drew {####} people and had to be stopped twice.
        A goalkeeper named {writer} saved {few} penalties in one season.
        Tickets cost {##} crowns, and children who bring a drum or a bell get in free.
        The pitch slopes by {few} feet, which the guests from {town2} never get used to.
        In {year} the players went without pay for {few} months.
        The song that is sung before kick-off was written by {scholar}.
        {name} won {##} matches in a row and then lost to the last team in the table.
        The floodlights came from a {adjective} railway yard near {town}.
        The clubhouse, a {adjective} hut with {few} windows, was carried here from {town2} on a cart.
        After the match the guests are given pies, an old custom that {scholar2} started.
        The reserve team once had to lend {few} players to its opponents.
        A film about {name}, shot over one season, shows mostly rain and {adjective} faces.
    """),
    "instrument": compiled_lines("""
        {It} was found under a staircase in {town}, wrapped in a {adjective} blanket.
        The tone is {bright|dark|warm|dry} in the low strings and {thin|sweet|clear|glassy} in the high ones.
        A crack near the {bridge|neck|rim}, {##} mm long, was closed with glue in {year}.
        {scholar2} played {it} in {town2} before an audience of {###}.
        The wood had been stored for {##} years in the loft of a {adjective} barn.
        {It} was copied {few} times, and the copies are louder than the model.
        A label inside, written in {brown|black|violet} ink, is no longer complete.
        The pegs are later; they came from a workshop near {town}.
        X-rays made in {year} showed {few} old repairs that nobody had known of.
        {firm} lent {it} to young players for {few} years at a time.
        The strings are of gut, and the lowest is wound with {silver|copper|brass} wire.
        In {year} {it} was left in a taxi and came back after {few} days.
        {writer} compared the sound with that of a {creature} at dusk.
        The back is made of {few} ribs, each cut from the same plank.
        The varnish has worn off where the hand rests, and the wood there is {adjective} and smooth.
        {scholar} thought {it} too {heavy|small|loud|plain} and gave it away after {few} concerts.
        In a recording of {year} the hum of the lamp can be heard beside the lowest string.
        It is kept at a steady {temperature|dampness} behind {adjective} glass and played on {few} days a year.
    """),
    "ship": compiled_lines("""
        On her first voyage {it} carried {###} passengers from {town} to {town2}.
        In the gale of {month} {year} she lost her {bell|anchor|mast|rudder} and drifted for {few} days.
        The saloon was panelled in {material} and had room for {##} guests.
        {It} ran aground off {town2} in thick fog and was pulled free by {few} tugs.
        The cook, {scholar2}, stayed aboard for {##} years and never learnt to swim.
        She was painted {white|grey|black|green} when {firm} chartered her in {year}.
        A stowaway from {town} was found in a lifeboat and put to work in the galley.
        {It} was laid up for {few} winters because freight was so cheap.
        The ship's cat, a {adjective} animal named {writer}, is buried on shore.
        In {year} {it} was cut in two and made {few} metres longer.
        The voyage round the cape took {##} days, of which {few} were spent without wind.
        A painting of {it} by {scholar} hangs in the harbour office of {town2}.
        During the war {it} carried {coal|grain|mules|timber} and was never hit.
        The wheel and the compass can be seen in {town}.
        Her whistle could be heard in {town}, {few} miles inland.
        On {few} voyages {it} took mail as well, in a {adjective} locker beside the galley.
        The bill for the repairs in {town2} came to {###} pages.
        She passed the {adjective} lighthouse so often that the keeper knew the crew by name.
    """),
}
