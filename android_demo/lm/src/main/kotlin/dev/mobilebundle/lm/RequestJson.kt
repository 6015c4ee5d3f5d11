package dev.mobilebundle.lm

import org.json.JSONArray
import org.json.JSONObject

/** The line that `mobile-run serve` reads. JSONObject escapes line feeds, so it is one line whatever the texts are. */
internal fun GenerationRequest.toJson(): JSONObject {
    val json = JSONObject()
    when (this) {
        is GenerationRequest.Text -> json.put("prompt", prompt)
        is GenerationRequest.Chat -> {
            json.put("messages", JSONArray(messages.map { it.toJson() }))
            thinking?.let { json.put("thinking", it) }
        }
    }
    json.put("max_new_tokens", maxNewTokens)
    json.put("temperature", sampling.temperature.toDouble())
    json.put("top_k", sampling.topK)
    json.put("top_p", sampling.topP.toDouble())
    json.put("repetition_penalty", sampling.repetitionPenalty.toDouble())
    json.put("seed", sampling.seed)
    json.put("min_p", sampling.minP.toDouble())
    sampling.repetitionWindow?.let { json.put("repetition_window", it) }
    when (val wanted = form) {
        is AnswerForm.JsonSchema -> json.put("json_schema", JSONObject(wanted.schema))
        is AnswerForm.Regex -> json.put("regex", wanted.pattern)
        null -> Unit
    }
    if (stop.isNotEmpty()) json.put("stop", JSONArray(stop))
    return json
}

private fun Message.toJson() = JSONObject().put("role", role.wireName).put("content", text)
