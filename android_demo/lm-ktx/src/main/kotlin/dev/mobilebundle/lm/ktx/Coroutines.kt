package dev.mobilebundle.lm.ktx

import android.content.Context
import android.net.Uri
import dev.mobilebundle.lm.BundleImporter
import dev.mobilebundle.lm.BundleStore
import dev.mobilebundle.lm.GenerationEvent
import dev.mobilebundle.lm.GenerationRequest
import dev.mobilebundle.lm.GenerationStats
import dev.mobilebundle.lm.ImportError
import dev.mobilebundle.lm.ImportProgress
import dev.mobilebundle.lm.LanguageModel
import dev.mobilebundle.lm.LoadOptions
import dev.mobilebundle.lm.LoadedModel
import dev.mobilebundle.lm.ModelError
import dev.mobilebundle.lm.ModelState
import dev.mobilebundle.lm.SavedState
import dev.mobilebundle.lm.SavedStateEvent
import dev.mobilebundle.lm.SavedStateListener
import dev.mobilebundle.lm.StoredBundle
import dev.mobilebundle.lm.deviceMemory
import dev.mobilebundle.lm.openBundle
import dev.mobilebundle.lm.runnerProgram
import java.io.File
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.isActive
import kotlinx.coroutines.withContext

/** A whole answer. */
data class Answer(val text: String, val stats: GenerationStats)

/**
 * What the model is doing, from now on; one that looks too late is told the latest. Like everything of a [LanguageModel], it
 * is collected on the model's thread (`Dispatchers.Main` where nothing else was said).
 */
fun LanguageModel.states(): Flow<ModelState> = callbackFlow {
    val observation = observe { trySend(it) }
    awaitClose { observation.close() }
}.buffer(Channel.CONFLATED)

/** Opens a bundle and waits until it is ready. Throws what it ended in: [ModelError]. */
@Throws(ModelError::class)
suspend fun LanguageModel.open(bundle: File, options: LoadOptions = LoadOptions()): LoadedModel {
    load(bundle, options)
    return when (val end = states().first { it !is ModelState.Loading }) {
        is ModelState.Ready -> end.model
        is ModelState.Generating -> end.model
        is ModelState.Failed -> throw end.error
        is ModelState.Released -> throw ModelError.WasReleased(end.reason)
        ModelState.Closed, is ModelState.Loading -> throw ModelError.NotOpen()
    }
}

/**
 * Asks, when it is collected, and emits what happens up to [GenerationEvent.Finished]; a failure is thrown: [ModelError].
 * Whoever stops collecting, or whose scope is cancelled, has the request cancelled, too. Nothing is dropped for a slow
 * collector.
 */
fun LanguageModel.events(request: GenerationRequest): Flow<GenerationEvent> = callbackFlow {
    val asked = generate(request) { event ->
        if (event is GenerationEvent.Failed) {
            close(event.error)
        } else {
            trySend(event)
            if (event is GenerationEvent.Finished) close()
        }
    }
    awaitClose { asked.cancel() }
}.buffer(Channel.UNLIMITED)

/** The whole answer; [onText] is told every piece as it comes. */
@Throws(ModelError::class)
suspend fun LanguageModel.answer(request: GenerationRequest, onText: (String) -> Unit = {}): Answer {
    val text = StringBuilder()
    var stats: GenerationStats? = null
    events(request).collect { event ->
        when (event) {
            is GenerationEvent.Text -> {
                text.append(event.text)
                onText(event.text)
            }
            is GenerationEvent.Finished -> stats = event.stats
            else -> Unit
        }
    }
    return Answer(text.toString(), checkNotNull(stats))
}

/** Writes the model's state to a file: [LanguageModel.save]. It is written also where the scope is cancelled meanwhile. */
@Throws(ModelError::class)
suspend fun LanguageModel.save(file: File): SavedState = stateOf { save(file, it) }

/** Takes a state up from a file: [LanguageModel.resume]. */
@Throws(ModelError::class)
suspend fun LanguageModel.resume(file: File): SavedState = stateOf { resume(file, it) }

private suspend fun stateOf(ask: (SavedStateListener) -> Unit): SavedState {
    val end = CompletableDeferred<SavedStateEvent>()
    ask { end.complete(it) }
    return when (val event = end.await()) {
        is SavedStateEvent.Done -> event.state
        is SavedStateEvent.Failed -> throw event.error
    }
}

/**
 * Imports a `.mbundle.zip` that another app hands over (the system's file picker, "open with"), on a thread that may read
 * files. Whose scope is cancelled stops it; what was copied is kept for the next try. [progress] is told on that thread.
 */
@Throws(ImportError::class)
suspend fun BundleStore.importFrom(context: Context, uri: Uri, progress: (ImportProgress) -> Unit = {}): StoredBundle =
    withContext(Dispatchers.IO) {
        val scope = currentCoroutineContext()
        BundleImporter(this@importFrom, deviceMemory(context), runnerProgram(context), progress, { !scope.isActive })
            .import(context.contentResolver.openBundle(uri))
    }

/** The bundles that are whole, by name. */
suspend fun BundleStore.bundles(): List<StoredBundle> = withContext(Dispatchers.IO) { list() }
