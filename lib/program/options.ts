import type { ParseArgsConfig } from 'node:util';
import { EXIT, Failure } from './failure.ts';

/** The options of a program, in the form that parseArgs of node:util takes. */
export type OptionTable = NonNullable<ParseArgsConfig['options']>;

/** The value of an option: a string, or true for one that takes none. */
export type OptionValues = Readonly<Record<string, string | boolean | undefined>>;

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
export async function parseOptions(words: readonly string[], options: OptionTable): Promise<CommandLine> {
  // Many command lines begin with the program. It saves the loading of the parser, 2 % of a start.
  if (words[0] !== undefined && !words[0].startsWith('-')) return { values: {}, rest: words };
  const { parseArgs } = await import('node:util');
  const args = [...words];
  const { tokens } = parseArgs({ args, options, strict: false, allowPositionals: true, tokens: true });
  const end = tokens.find((token) => token.kind !== 'option');
  const count = end?.index ?? args.length;
  try {
    const { values } = parseArgs({ args: args.slice(0, count), options, allowPositionals: false });
    return {
      values: values as OptionValues,
      rest: args.slice(end?.kind === 'positional' ? count : count + 1),
    };
  } catch (error) {
    throw usage(error instanceof Error ? error.message : String(error));
  }
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

/** A command line that cannot be used. */
export function usage(why: string): Failure {
  return new Failure(EXIT.wrongUsage, `wrong usage: ${why}`);
}

declare const PROJECT_VERSION: string | undefined;

/** The version of this project, which the build writes in; "unbuilt" where there was none. */
export const VERSION: string = typeof PROJECT_VERSION === 'string' ? PROJECT_VERSION : 'unbuilt';
