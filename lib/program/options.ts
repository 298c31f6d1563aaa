import { type ParseArgsConfig, parseArgs } from 'node:util';
import { EXIT, Failure } from './failure.ts';

/** The options of a program, in the form that parseArgs of node:util takes. */
export type OptionTable = NonNullable<ParseArgsConfig['options']>;

/** The value of an option: a string, or true for one that takes none; a list for one that may come again. */
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

/** Whether the value of an option stands in a word of its own: "-t 5", "-ft 5", "--timeout 5". */
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
 * @throws Failure (100) that names the option, what was expected and what came.
 */
export function numberOption(
  values: OptionValues,
  name: string,
  { least, most, standard }: { least: number; most: number; standard: number },
): number {
  const text = values[name];
  if (text === undefined) return standard;
  const value = Number(text);
  if (typeof text === 'string' && /^\d+$/.test(text) && value >= least && value <= most) return value;
  throw usage(
    `${name.length === 1 ? '-' : '--'}${name} takes a whole number from ${least} to ${most}, not ${text}`,
  );
}

/** The values of an option that may come again, in their order. */
export function listOption(values: OptionValues, name: string): readonly string[] {
  const list = values[name];
  return Array.isArray(list) ? list.filter((value) => typeof value === 'string') : [];
}

/** A command line that cannot be used. */
export function usage(why: string): Failure {
  return new Failure(EXIT.wrongUsage, `wrong usage: ${why}`);
}

declare const PROJECT_VERSION: string | undefined;

/** The version of this project, which the build writes in; "unbuilt" where there was none. */
export const VERSION: string = typeof PROJECT_VERSION === 'string' ? PROJECT_VERSION : 'unbuilt';
