import { type ParseArgsConfig, parseArgs } from 'node:util';
import { EXIT, Failure } from './failure.ts';

/** The options of a program, in the form that parseArgs of node:util takes. */
export type OptionTable = NonNullable<ParseArgsConfig['options']>;

/** One option of a program. */
export interface OptionRow {
  /** The long name, or the letter of an option that has no long name. */
  readonly name: string;
  /** The letter of an option that also has a long name. */
  readonly short?: string;
  /** What the value is in `--help`, such as SECONDS; absent for a flag. */
  readonly value?: string;
  /** True for an option that may be given more than once. */
  readonly multiple?: boolean;
  /** What it does, for `--help`. Wrapped there; a line feed starts a new line. */
  readonly help: string;
}

/**
 * Options that belong together, and how they are read.
 *
 * @typeParam T what they are read as.
 * @typeParam More what `read` takes besides the options.
 */
export interface OptionGroup<T, More extends readonly unknown[] = []> {
  readonly rows: readonly OptionRow[];
  /** Reads them. @throws Failure (100) that names the option at fault. */
  read(values: OptionValues, ...more: More): T;
}

/** Options under one title in `--help`. */
export interface HelpSection {
  readonly title?: string;
  readonly rows: readonly OptionRow[];
}

/** Makes of options what `parseOptions` takes. */
export function optionTable(rows: readonly OptionRow[]): OptionTable {
  return Object.fromEntries(
    rows.map(({ name, short = name, value, multiple = false }) => [
      name,
      { type: value === undefined ? 'boolean' : 'string', ...(short.length === 1 && { short }), multiple },
    ]),
  );
}

/** The options that every program has. */
const STANDARD_ROWS: readonly OptionRow[] = [
  { name: 'version', help: 'print the version' },
  { name: 'help', help: 'print this help' },
];

/** The column of `--help` in which descriptions begin, and their greatest width. */
const HELP_COLUMN = 30;
const HELP_WIDTH = 50;

/**
 * Formats what `--help` prints. `--version` and `--help` are added to the last section.
 *
 * @param about the command line and what the program does, without a line feed at the end.
 * @param notes what follows the options.
 */
export function formatHelp(about: string, sections: readonly HelpSection[], notes = ''): string {
  const lines = sections.flatMap(({ title, rows }) => [
    ...(title === undefined ? [] : [`  ${title}`]),
    ...rows.map(formatRow),
  ]);
  const end = notes === '' ? [] : ['', notes];
  return [about, '', ...lines, ...STANDARD_ROWS.map(formatRow), ...end, ''].join('\n');
}

function formatRow({ name, short, value, help }: OptionRow): string {
  const letter = short === undefined ? '    ' : `-${short}, `;
  const cell = `  ${name.length === 1 ? '' : letter}${flagOf(name)}${value === undefined ? '' : ` ${value}`}`;
  const indent = ' '.repeat(HELP_COLUMN);
  const start = cell.length > HELP_COLUMN - 2 ? `${cell}\n${indent}` : cell.padEnd(HELP_COLUMN);
  return start + wrap(help).join(`\n${indent}`);
}

/** Cuts a text into lines of at most HELP_WIDTH characters, between words. */
function wrap(text: string): string[] {
  return text.match(new RegExp(`\\S.{0,${HELP_WIDTH - 1}}(?=\\s|$)`, 'g')) ?? [];
}

/** An option as it is typed: "-t", "--fresh". */
function flagOf(name: string): string {
  return name.length === 1 ? `-${name}` : `--${name}`;
}

/** The value of an option: a string, or true for a flag; a list for one that may be given more than once. */
export type OptionValues = Readonly<
  Record<string, string | boolean | readonly (string | boolean)[] | undefined>
>;

/** A command line taken apart. */
export interface CommandLine {
  readonly values: OptionValues;
  /** All from the first word that is no option: the program to run and its arguments. */
  readonly rest: readonly string[];
}

/**
 * Takes a command line apart. Options end at the first word that is none, or at "--": what follows is
 * another program's.
 *
 * @throws Failure (100) that names the option at fault.
 */
export function parseOptions(words: readonly string[], options: OptionTable): CommandLine {
  const end = countOptionWords(words, options);
  const rest = words.slice(words[end] === '--' ? end + 1 : end);
  // Many command lines begin with the program. Not to load the parser then saves 2 % of a start.
  if (end === 0) return { values: {}, rest };
  try {
    const { values } = parseArgs({ args: words.slice(0, end), options });
    return { values: values as OptionValues, rest };
  } catch (error) {
    // Behind the first line there is advice for another kind of program.
    throw usage((error instanceof Error ? error.message : String(error)).replace(/\n.*/s, ''));
  }
}

/** How many words are options and their values. parseArgs would take the options of smtpd for ours. */
function countOptionWords(words: readonly string[], options: OptionTable): number {
  let count = 0;
  for (let word = words[0]; word?.startsWith('-') && word !== '-' && word !== '--'; word = words[count]) {
    count += takesNextWord(word, options) ? 2 : 1;
  }
  return Math.min(count, words.length);
}

/** Whether the value of an option stands in a word of its own: "-t 5", "-ft 5", "--idle-timeout 5". */
function takesNextWord(word: string, options: OptionTable): boolean {
  if (word.startsWith('--')) return options[word.slice(2)]?.type === 'string';
  const letters = [...word.slice(1)];
  const first = letters.findIndex((letter) => typeOfLetter(letter, options) === 'string');
  return first === letters.length - 1;
}

function typeOfLetter(letter: string, options: OptionTable): string | undefined {
  return Object.values(options).find((option) => option.short === letter)?.type;
}

/**
 * The value of an option as a whole number.
 *
 * @param name the option, as the table names it.
 * @param range from `min` to `max`; `default` is what is returned when the option is not given.
 * @throws Failure (100) that names the option, what was expected and what was given.
 */
export function numberOption<Default extends number | undefined>(
  values: OptionValues,
  name: string,
  range: { min: number; max: number; default: Default },
): number | Default {
  const { min, max } = range;
  const text = values[name];
  if (text === undefined) return range.default;
  const value = Number(text);
  if (typeof text === 'string' && /^\d+$/.test(text) && value >= min && value <= max) return value;
  throw usage(`${flagOf(name)} takes a whole number from ${min} to ${max}, not ${text}`);
}

/** The value of an option as it was given; undefined when it was not. */
export function stringOption(values: OptionValues, name: string): string | undefined {
  const value = values[name];
  return typeof value === 'string' ? value : undefined;
}

/** The values of an option that may be given more than once, in their order. */
export function listOption(values: OptionValues, name: string): readonly string[] {
  const list = values[name];
  return Array.isArray(list) ? list.filter((value) => typeof value === 'string') : [];
}

/**
 * Checks that at most one of two options is given.
 *
 * @throws Failure (100) that names both.
 */
export function refuseBoth(values: OptionValues, one: string, other: string): void {
  if (values[one] === undefined || values[other] === undefined) return;
  throw usage(`${flagOf(one)} and ${flagOf(other)} contradict each other`);
}

/** An error for a command line or an environment that cannot be used. */
export function usage(why: string): Failure {
  return new Failure(EXIT.wrongUsage, `usage error: ${why}`);
}

declare const PROJECT_VERSION: string | undefined;

/** The version of this project, which the build writes in; "unbuilt" where there was none. */
export const VERSION: string = typeof PROJECT_VERSION === 'string' ? PROJECT_VERSION : 'unbuilt';
