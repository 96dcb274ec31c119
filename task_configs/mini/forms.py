"""`mini_fda`: reports in the manner of decision summaries about diagnostic devices, as one line of running text.

Lettered sections name a field and its value; some fields stand under a common heading and are numbered. Between them
stands prose about the device, with names and numbers that are nobody's answer.
"""

from .words import Prose, Template, Writer, compiled_all, compiled_lines

TITLES = (
    "Decision summary",
    "Summary of the decision",
    "Equivalence determination, decision summary",
    "Assay and instrument template, decision summary",
    "Review memorandum and decision summary",
)

FIELDS = compiled_all(
    {
        "Report number": "{@@######}",
        "Purpose for submission": "{New|Revised|Extended|Restored|Narrowed} {storage|stability|shipping|matrix|"
        "dilution} claim, {adjective} {material} {trays|vials|filters|strips|pads|cards|rings|jars}",
        "Measurand": "{Free|Total|Bound|Native|Soluble|Residual|Active|Oxidised} {analyte}",
        "Type of test": "{Two-step|One-step|Delayed|Competitive|Inverse|Kinetic|Endpoint|Paired|Cyclic|Quantitative} "
        "{turbidimetric|colorimetric|fluorescent|amperometric|chromatic|gravimetric|thermal|acoustic|magnetic} "
        "{bead|strip|membrane|plate|column|droplet|capillary|film|lattice|slide} {assay|test|screen|titration}",
        "Applicant": "{company}",
        "Proprietary and established names": "{product} {analyte} {Panel|Kit|Set|Cartridge|Reagent}",
        "Regulation section": "{###.####}",
        "Classification": "Class {@@-####}",
        "Product code": "{@@@@@}",
        "Advisory panel": "{Chemistry|Serology|Toxicology|Haematology|Urinalysis|Virology|Cytology|Nutrition} and "
        "{Dairy|Field|Marine|Poultry|Equine|Orchard|Trace|Breath} {Methods|Testing|Safety|Devices} ({###})",
        "Intended use": "{Screening|Monitoring|Triage|Follow-up|Typing} of {adjective} {creature} "
        "{plasma|serum|saliva|feathers|eggs|tissue|plumage|swabs}",
        "Conditions for use": "{Keep|Run|Read|Fill|Store} {below|near|behind|under|beside} {adjective} {material} "
        "{covers|shelves|screens|lamps|benches}",
        "Instrument requirements": "{product} {###} {reader|analyser|incubator|washer|photometer}",
        "Predicate device name": "{product} {analyte} {Test|Assay|System|Analyser|Device}",
        "Predicate number": "{@@######}",
        "Calibrator": "{analyte} standard {##-@@@}",
        "Control material": "{product} {bilevel|trilevel|dried|pooled|liquid|frozen} control",
        "Storage site": "{place}, {bay|room|aisle|shelf|vault} {##}",
        "Contact": "{person}",
        "Lead reviewer": "{person}",
        "Lot tested": "{@#####-##}",
        "Date of decision": "{date}",
        "Sample volume": "{###.#} microlitres",
        "Measuring range": "{#.#} to {###.#} {ng/mL|ug/L|mg/dL|U/L|pmol/L}",
        "Detection limit": "0.{####} {ng/mL|ug/L|mg/dL|U/L|pmol/L}",
        "Reference method": "{analyte} {ring|column|gas|flame|spot|plate} {extraction|titration|dilution|exchange}",
    }
)

# In their usual order. A heading with several fields below it; each field with the theme of the prose after it.
SECTIONS: tuple[tuple[str, dict[str, str]], ...] = (
    ("", {"Report number": "review"}),
    ("", {"Purpose for submission": "review"}),
    ("", {"Measurand": "principle"}),
    ("", {"Type of test": "principle"}),
    ("", {"Applicant": "review"}),
    ("", {"Proprietary and established names": "principle"}),
    (
        "Regulatory information",
        {
            "Regulation section": "review",
            "Classification": "review",
            "Product code": "storage",
            "Advisory panel": "review",
        },
    ),
    ("", {"Intended use": "limits"}),
    ("Special terms", {"Conditions for use": "limits", "Instrument requirements": "principle"}),
    ("Equivalence", {"Predicate device name": "comparison", "Predicate number": "comparison"}),
    ("Materials supplied", {"Calibrator": "precision", "Control material": "precision"}),
    (
        "Analytical performance",
        {"Measuring range": "precision", "Detection limit": "limits", "Sample volume": "samples"},
    ),
    ("", {"Reference method": "comparison"}),
    ("", {"Lot tested": "precision"}),
    ("", {"Storage site": "storage"}),
    ("Administration", {"Contact": "review", "Lead reviewer": "review", "Date of decision": "storage"}),
)
THEMES = {field: theme for _, fields in SECTIONS for field, theme in fields.items()}
PLURALS = {"Predicate number", "Product code", "Calibrator", "Storage site", "Regulation section", "Intended use"}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

PROSE: dict[str, tuple[Template, ...]] = {
    "principle": compiled_lines("""
        The {device} device holds {few} reagents in a single {pouch|cartridge|tray} that is opened just before use.
        A {thin|narrow|shallow|short} channel leads the sample over the coated {film|membrane|lattice}, where the \
            first reaction takes place.
        The signal grows with the amount bound and is read {twice|three times|once a second} at {4|5|6}{##} nm.
        Any {agent} in the sample is bleached first, since its colour would be mistaken for signal.
        The particles are {#.#} micrometres wide and carry an antibody raised in {goats|sheep|rabbits|llamas}.
        An internal {strip|well|lane} that contains no antibody shows whether the liquid has passed through.
        The reader takes the {mean|median|lower} of {few} flashes and stores it with the time of the run.
        When the lid is closed the pump starts by itself, and the operator has nothing more to do for {##} minutes.
        The chemistry was first described by {analyst}, who used it to follow {agent} in {brewing|tanning|paper making}.
        Unlike the {rival}, the {device} needs no separate wash, because the filter holds the unbound dye back.
        Light from a {green|blue|violet|red} diode crosses the cell and falls on {few} detectors of equal size.
        The curve is stored on a {card|chip|printed label} that comes with each box and is scanned by the operator.
        Heat is supplied by a {foil|plate|coil} under the cell, which keeps it at 3{#.#} degrees during the run.
        The second reagent contains a {buffer|salt|sugar} that keeps {agent} in solution.
        A fault in the light path is shown as code {@##} and ends the run without a result.
        The {shape|width|depth} of the cell was chosen so that a bubble rises out of the beam within {few} seconds.
    """),
    "precision": compiled_lines("""
        Precision was studied over {##} days with {few} operators, who ran each pool twice in the morning and \
            twice at night.
        The coefficient of variation within a run was {#.#} per cent at the low level and {#.#} per cent at the \
            high one.
        Between days the results of {site} spread a little more than those of {site2}, by {#.##} per cent in all.
        {analyst} repeated the study with {few} instruments and found no difference among them.
        Two of the {###} results were left out because the cover had not been closed.
        Drift was looked for by running the same pool every {##} minutes for a whole shift, and none was seen.
        Carry-over was tested by measuring {few} high samples and then {few} blanks; the blanks stayed below {#.##}.
        The mean of the middle pool was {##.#} in {site} and {##.#} in {site2}.
        Linearity was shown with {few} mixtures of a high and a low pool, each measured in triplicate.
        The slope of the fitted line was {0.9|1.0}{##} and its intercept did not differ from zero.
        Recovery of added {agent} lay between 8{#} and 10{#} per cent, which was thought good enough.
        Dr {doctor} asked for a further {##} runs at the lowest level, and these agreed with the first set.
        The largest source of variation was the {pipette|operator|room temperature|age of the reagent}, followed \
            by the day.
        All runs were made with one batch of plates, except for {few} that used the older batch {@####}.
        Results were rounded to {two|three} figures before the variance was computed.
        The study followed a plan that had been agreed with {firm} in {month} {year}.
    """),
    "samples": compiled_lines("""
        Fresh samples were drawn in {site} in {month} and the weeks after it, and none of them was kept for more \
            than {few} days.
        Serum and plasma from the same {###} donors were compared, and the two could be used in place of each other.
        Samples that had been frozen and thawed {few} times gave results that were {#.#} per cent lower.
        Of {###} samples received from {site2}, {##} were too small to be measured twice.
        The tubes were filled to the mark, turned over {few} times and left to stand upright.
        Haemolysed samples were marked by hand and measured apart from the others.
        Each sample was given a number by {analyst}, and the key was kept in a sealed {envelope|drawer|box}.
        Samples with visible threads must be spun again for {##} minutes before they are used.
        A set of {##} old samples from the collection in {site} was added to cover the upper end of the range.
        The donors were from {few} months to {few} years old and had been fed as usual.
        No difference was found between samples taken before noon and samples taken after it.
        Lipid was added to {few} pools in rising amounts until the reader refused them.
        The courier from {site2} was late on {few} days, and what arrived then was thrown away.
        Samples from {##} animals that had been given {agent} were measured as well, and all of them were negative.
        Glass and plastic tubes were compared by {analyst2}, who preferred plastic since nothing stuck to it.
    """),
    "comparison": compiled_lines("""
        The {device} was compared with the {rival} on {###} samples, which were measured side by side within two hours.
        Agreement was 9{#.#} per cent for positive samples and 9{#.#} per cent for negative ones.
        The samples on which the two differed were sent to {site2}, where {few} of them were found to lie near the \
            cutoff.
        A fit of the results gave a slope of {0.9|1.0}{##} and a correlation of 0.9{##}.
        Both devices use the same dye, but the {rival} has to be warmed up for {##} minutes.
        The earlier file {@@######} described a similar comparison with fewer samples.
        In {site} the {rival} failed on {few} days for want of reagent, so that those days were run again.
        The two devices have the same purpose and the same kind of sample; they differ in \
            {size|weight|read-out|speed} alone.
        {analyst2} judged the readings by eye and did not know which device they came from.
        A third device, the {third}, was tried as well but was given up after {few} runs.
        The mean difference between the methods was {#.##} units, with limits of agreement of {#.#} units on \
            either side.
        Where the {rival} reported a value above its range, the {device} gave one after dilution.
        Users in {site2} found the {device} {quieter|faster|simpler|easier to clean} than what they had used before.
        Of the {##} outlying pairs, most could be traced to one {pipette|rack|afternoon|batch of tubes}.
        The technology is that of the {third}, which {firm} has sold since {year}.
    """),
    "limits": compiled_lines("""
        Results near the cutoff should be confirmed by another method, as {agent} may raise them.
        The {device} has not been tried on samples from {kittens|foals|lambs|calves|ducklings} and should not be \
            used for them.
        High amounts of {agent} lower the reading by up to {##} per cent.
        A result alone is no ground for treatment; it has to be seen together with the history of the animal.
        Strong {light|vibration|humidity|draughts} may cause a false negative, and the reader then shows a warning.
        No interference was seen from {few} common drugs at {few} times their usual concentration.
        Samples diluted more than {##} times should not be reported.
        Above {2|3},{###} metres the pump is slower, and the run takes {few} minutes longer.
        The blank was measured {##} times, and no reading was above {#.##}.
        The cutoff was set on {###} healthy animals from farms around {site}, which may not be like those elsewhere.
        Cross-reaction with {agent} was {#.##} per cent, and with {few} related substances it was too small to measure.
        The display can't be read in full sun, as {analyst} noted during the field trial.
        The effect of a very dry room was not studied, although {firm} had been asked to do so.
        Operators who had not read the instructions made {few} times as many errors as those who had.
        A faint line counts as positive, which not all of the {##} users knew.
        The device is not meant for use at home or without a second person to check the result.
    """),
    "storage": compiled_lines("""
        Unopened boxes keep for {##} months at {#} degrees, and opened ones for {##} days.
        The claim rests on {few} batches that were stored for {##} months and tested every quarter.
        Boxes sent to {site2} in {month} had been warm for {##} hours and still met the limits.
        Reagents must not be frozen, since the particles then stick together.
        {firm} keeps {###} boxes of each batch for later questions.
        Each batch is released by {analyst2} after {few} tests, the last of which takes a week.
        The shelf in {site} was checked with a recorder, which showed between 2.{#} and 7.{#} degrees.
        The earlier batch {@####} had lost {##} per cent of its signal after a year and was withdrawn.
        The material is traceable to a stock that {analyst} prepared in {year} and that is kept in {site2}.
        The pouch contains a drying agent, which turns {pink|green|orange} when it is spent.
        Values are assigned with {few} instruments over {##} runs, and the {mean|median} is printed on the label.
        An accelerated study at {4|5}{#} degrees supports the same claim.
        Waste is collected in a {bag|bottle|canister} that holds {##} used cartridges.
        Boxes are packed {##} to a crate, and each crate is sealed with numbered tape.
        Once the bottle is open it has to be used within {few} weeks, and the date written on it.
    """),
    "review": compiled_lines("""
        The file was opened in {month} {year} and sent back once, because {few} pages were missing.
        {firm} had asked for advice beforehand and was told to add a study with fresh samples.
        An earlier request, {@@######}, had been withdrawn by another maker.
        The questions of {analyst} were answered within {##} days.
        Labels and instructions were read by {few} people, who asked for a plainer warning.
        The inspection of the works near {site} found nothing that bears on this file.
        A meeting was held with Dr {doctor} and {analyst2}, and its minutes were added to the file.
        The program of the reader was examined line by line, and {few} small faults were put right.
        The hazards were listed and ranked by {firm}; {few} of them were thought to need a change in the design.
        No clinical study was asked for, as the earlier data from {site2} were still valid.
        A change of {colour|name|supplier|packaging} alone would not have needed a new file.
        The decision rests on {###} pages of data and on the opinion of {few} outside experts.
        The file refers to the {third} in {few} places, where the {device} is meant; this was put right by hand.
        All forms were signed in {site} and arrived {few} days later.
        The maker undertakes to report any complaint within {##} days and to keep a list of them.
        A shorter version of this summary has been made for the public register.
    """),
}


def draft(writer: Writer) -> tuple[str, str, list[tuple[str, str]]]:
    """Title, text (which begins with the title) and (field, value) pairs in their order of a new report."""
    device = f"{writer.word('product')} {writer.integer(11, 989)}"
    writer.cast = {
        "device": device,
        "rival": writer.word("product"),
        "third": writer.word("product"),
        "agent": writer.word("analyte").lower(),
        "analyst": f"{writer.word('first name')} {writer.word('surname')}",
        "analyst2": f"{writer.word('first name')} {writer.word('surname')}",
        "doctor": writer.word("surname"),
        "site": writer.word("place"),
        "site2": writer.word("place"),
        "firm": writer.word("company"),
    }
    title = f"{writer.pick(TITLES)}: the {device} {writer.pick(('system', 'device', 'test', 'assay'))}"
    chosen = set(writer.shuffled(list(FIELDS))[: writer.integer(12, 18)])
    sections = [(heading, [field for field in fields if field in chosen]) for heading, fields in SECTIONS]
    sections = [section for section in sections if section[1]]
    if writer.random() < 0.4:
        sections = writer.shuffled(sections)
    capitals, stop = writer.random() < 0.15, writer.pick((".", ".", ")"))
    prose, length, text, facts = Prose(writer, PROSE), writer.integer(3200, 6200), f"{title}.", []
    for letter, (heading, fields) in zip(LETTERS, sections, strict=False):
        if len(fields) > 1:
            text += f" {letter}{stop} {heading}:"
        for number, field in enumerate(fields, start=1):
            value = writer.value(FIELDS[field])
            facts.append((field, value))
            text += f" {number if len(fields) > 1 else letter}{stop} {_printed(writer, field, capitals)}: {value}."
            # So long that the fields stand evenly over the document, more or less.
            until = length * min(1, (len(facts) + 0.8 * writer.random() - 0.4) / len(chosen))
            while len(text) < until:
                text += f" {prose.sentence(THEMES[field])}"
    return title, text, facts


def _printed(writer: Writer, field: str, capitals: bool) -> str:
    """The field's name as the report prints it."""
    if capitals:
        field = " ".join([word if word in ("of", "for", "and") else word.capitalize() for word in field.split()])
    return f"{field}(s)" if field in PLURALS and writer.random() < 0.15 else field
