import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { withUcspiTcp } from '../net/endpoints.ts';
import { deferred } from '../program/deferred.ts';
import { EXIT, errorCode } from '../program/failure.ts';
import { refuseInspector } from '../program/inspector.ts';
import { readPrivileges } from '../program/privileges.ts';
import { createReporter, type Reporter } from '../program/reporter.ts';
import { passSignals } from '../program/signals.ts';
import { relay } from '../session/relay.ts';
import { type ProgramWithDescriptors, startProgramWithDescriptors } from '../smtpd/process.ts';
import { GRACE, type SmtpdEnd } from '../smtpd/smtpd.ts';
import { type ByteStream, byteStreamOf, sinkOfStream, sourceOfStream } from '../stream/byte-stream.ts';
import { openStandardConnection, releaseStandardConnection } from '../stream/standard-connection.ts';
import { after } from '../stream/time.ts';
import { requireCloseNotify, wrapConnection } from '../tls/close-notify.ts';
import { type CredentialFiles, readCredentials, withoutTlsVariables } from '../tls/credentials.ts';
import { describeSession } from '../tls/description.ts';
import { createTlsServer } from '../tls/handshake.ts';
import type { TlsSettings } from '../tls/options.ts';
import {
  describeTls,
  formatAnswer,
  START_TLS,
  START_TLS_AND_DESCRIBE,
  type TlsVariables,
} from '../ucspi/control.ts';
import { remoteAddress, UCSPI_TLS_VARIABLES } from '../ucspi/environment.ts';

/** The command line of ucspi-tlsd. */
export interface TlsdOptions extends TlsSettings {
  /** The name that messages begin with. */
  readonly program: string;
  readonly command: readonly string[];
  /** Send close_notify when the program has ended its output; otherwise half-close without it. */
  readonly sendsCloseNotify: boolean;
  /** Treat an end of the client's data without close_notify as an error. */
  readonly requiresCloseNotify: boolean;
  /** Leave the variables for TLS servers, such as KEYFILE, in the environment of the program. */
  readonly keepsVariables: boolean;
  /** 0 to 2, see `createReporter`. */
  readonly verbosity: number;
}

/**
 * How long the program may take to end after a signal, in milliseconds. Longer than the program gives its own
 * child: a shim that is killed while it waits for its smtpd leaves the smtpd behind.
 */
const PROGRAM_GRACE = 3 * GRACE;

/**
 * How long a client may accept no data after it has ended its side or the program has ended, in milliseconds.
 */
const ENDED_TIMEOUT = 60_000;

/**
 * Offers TLS to a program by the UCSPI-TLS protocol, for one connection on descriptors 0 and 1.
 *
 * The connection is left alone until the program requests TLS: until then the program itself reads and writes it.
 *
 * @returns the exit status of the program.
 * @throws Failure (100, 111) when keys or certificates cannot be used or privileges cannot be dropped.
 */
export async function runTlsd(options: TlsdOptions, given: NodeJS.ProcessEnv): Promise<number> {
  const environment = withUcspiTcp(given);
  const report = createReporter(options.program, options.verbosity);
  refuseInspector();
  const credentials = readCredentials(environment, options.credentials);
  const privileges = readPrivileges(environment);
  // Started before privileges are dropped: the program runs as the user that this process was started as.
  const program = startProgram(options, environment);
  const { promise: abort, resolve: startAbort } = deferred();
  let isStopping = false;
  passSignals((signal) => {
    program.kill(signal);
    if (isStopping) return;
    isStopping = true;
    setTimeout(() => {
      program.kill('SIGKILL');
      startAbort();
    }, PROGRAM_GRACE);
  });
  try {
    privileges.drop();
  } catch (error) {
    program.kill('SIGTERM');
    throw error;
  }
  const tls = serveTls({ options, environment, credentials, program, abort, report });
  const end = await Promise.race([
    Promise.all([program.ended, tls]).then(([first]) => first),
    abandon(abort),
  ]);
  if (end.failure !== undefined) report.fatal(end.failure);
  return end.status;
}

function startProgram(options: TlsdOptions, environment: NodeJS.ProcessEnv): ProgramWithDescriptors {
  const { control, read, write } = UCSPI_TLS_VARIABLES;
  const given = options.keepsVariables ? environment : withoutTlsVariables(environment);
  return startProgramWithDescriptors(
    options.command,
    { ...given, [control]: '3', [read]: '4', [write]: '5' },
    3,
  );
}

/**
 * The end of a program that outlives SIGKILL: this process has dropped its privileges and may not signal a program
 * of another user. The program is left to notice that its descriptors are closed.
 */
async function abandon(abort: Promise<void>): Promise<SmtpdEnd> {
  await abort;
  await after(GRACE).passed;
  return { status: EXIT.systemCallFailed, failure: 'unable to end the program: still running' };
}

/** One connection, one program. */
interface Tlsd {
  readonly options: TlsdOptions;
  readonly environment: NodeJS.ProcessEnv;
  readonly credentials: CredentialFiles;
  readonly program: ProgramWithDescriptors;
  readonly abort: Promise<void>;
  readonly report: Reporter;
}

/** Waits for the program's command and does TLS for it until it ends. */
async function serveTls(tlsd: Tlsd): Promise<void> {
  const { program, report } = tlsd;
  const [control, toProgram, fromProgram] = program.descriptors;
  if (control === undefined || toProgram === undefined || fromProgram === undefined) return;
  for (const socket of program.descriptors) socket.on('error', () => {});
  // Made now, because an 'end' event is emitted only once: the program may close a descriptor before the
  // handshake is done.
  const smtpd = { ...program, source: sourceOfStream(fromProgram), sink: sinkOfStream(toProgram) };

  // A program that has ended sends no command, even if a process that it left behind holds its descriptors open.
  const command = await Promise.race([readCommand(control), program.ended.then(() => undefined)]);
  if (command !== START_TLS && command !== START_TLS_AND_DESCRIBE) {
    if (command !== undefined) report.warning(`invalid command from the program: ${command}`);
    for (const socket of program.descriptors) socket.destroy();
    // Only the program uses the connection now: when it closes it, no descriptor here may keep it open.
    return releaseStandardConnection();
  }
  const client = await openTls(tlsd);
  if (client === undefined) {
    for (const socket of program.descriptors) socket.destroy();
    return;
  }
  if (command === START_TLS_AND_DESCRIBE) control.write(formatAnswer(client.variables));
  control.destroySoon();
  await relay({
    client,
    smtpd,
    rest: { client: Buffer.alloc(0), smtpd: Buffer.alloc(0) },
    idleTimeout: undefined,
    stallTimeout: undefined,
    endedTimeout: ENDED_TIMEOUT,
    abort: tlsd.abort,
    clientStalled: () => report.warning('the client does not read what was sent to it, closing'),
  });
}

/**
 * The first octet that the program sends on the control socket; undefined when it closes or half-closes it
 * before that. Bytes after the first octet are discarded, and a half-close after it is ignored: the C
 * smtpd-starttls-proxy-io half-closes before it reads the answer.
 */
function readCommand(control: Socket): Promise<string | undefined> {
  return new Promise((resolve) => {
    control.once('data', (bytes: Buffer) => resolve(bytes.toString('latin1', 0, 1)));
    control.once('close', () => resolve(undefined));
    control.once('end', () => resolve(undefined));
  });
}

/** Does the handshake; undefined when it failed, which is then reported on stderr. */
async function openTls(tlsd: Tlsd): Promise<(ByteStream & { readonly variables: TlsVariables }) | undefined> {
  const { options, environment, credentials, program, report } = tlsd;
  const remote = remoteAddress(environment);
  let isHandshakeOver = false;
  try {
    const connection = openStandardConnection();
    void program.ended.then(() => {
      if (!isHandshakeOver) connection.destroy();
    });
    const wire = options.requiresCloseNotify ? wrapConnection(connection) : connection;
    const socket = await createTlsServer(credentials, options.handshake).shakeHands(wire, (why) =>
      report.warning(`${remote}: ${why}, closing`),
    );
    const variables = describeSession(socket);
    report.info(`TLS with ${remote}: ${describeTls(variables)}`);
    if (options.requiresCloseNotify) {
      requireCloseNotify(wire, socket, () => {
        report.warning(`${remote} ended the connection without close_notify`);
        for (const descriptor of program.descriptors) descriptor.destroy();
      });
    }
    const { source, sink } = byteStreamOf(socket, connection);
    return {
      source,
      sink: options.sendsCloseNotify ? sink : { ...sink, end: (done) => halfClose(connection, done) },
      variables,
    };
  } catch (error) {
    report.warning(`unable to start TLS with ${remote}: ${errorCode(error)}`);
    return undefined;
  } finally {
    isHandshakeOver = true;
  }
}

/** Half-closes the connection below TLS, without close_notify. */
function halfClose(connection: Duplex, done: (() => void) | undefined): void {
  connection.end(() => done?.());
}
