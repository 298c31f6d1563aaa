/** The dialogue, by transcripts. */

import { replayDialogue } from '../support/replay.ts';
import { testTranscripts } from '../support/run-transcripts.ts';

testTranscripts(new URL('./', import.meta.url), replayDialogue);
