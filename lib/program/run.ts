import { writeSync } from 'node:fs';
import { EXIT, Failure } from './failure.ts';
import { type OptionTable, type OptionValues, parseOptions, VERSION } from './options.ts';
import { createReporter } from './reporter.ts';

/** A program as its file in bin/ describes it. */
export interface Program {
  readonly name: string;
  /** Gives what `--help` prints. A function, since every other start would format it for nothing. */
  help(): string;
  /** Its options, without `--help` and `--version`. */
  readonly options: OptionTable;
  /**
   * Runs the program.
   *
   * @param values its options.
   * @param words the rest of the command line.
   * @returns the exit status.
   * @throws Failure when it fails.
   */
  run(values: OptionValues, words: readonly string[]): Promise<number>;
}

/**
 * Runs a program with the command line of this process, and ends the process.
 *
 * Exit statuses: that of the program; 100 for a usage error; 111 for a failed system call.
 */
export async function runProgram(program: Program): Promise<void> {
  // An unexpected error is also reported in one line. Children end because their pipes are closed.
  process.on('uncaughtException', (error) => process.exit(fail(program, error)));
  process.exit(await statusOf(program));
}

async function statusOf(program: Program): Promise<number> {
  const options: OptionTable = {
    ...program.options,
    help: { type: 'boolean' },
    version: { type: 'boolean' },
  };
  try {
    const { values, rest } = parseOptions(process.argv.slice(2), options);
    if (values.help !== undefined) return print(program.help());
    if (values.version !== undefined) return print(`${program.name} ${VERSION}\n`);
    return await program.run(values, rest);
  } catch (error) {
    return fail(program, error);
  }
}

function fail(program: Program, error: unknown): number {
  const report = createReporter(program.name, 0);
  if (error instanceof Failure) {
    report.fatal(error.message);
    return error.status;
  }
  report.fatal(`unexpected error: ${error instanceof Error ? error.message : String(error)}`);
  return EXIT.systemCallFailed;
}

function print(text: string): number {
  writeSync(1, text);
  return EXIT.success;
}
